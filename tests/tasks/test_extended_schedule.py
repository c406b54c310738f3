"""The schedule of a run that was extended: planned first for its own length, then as each extension says."""

import numpy as np

from configs.digits import get_config
from vicreg_jax.optim import warmup_cosine, warmup_stable_decay
from vicreg_jax.tasks.pretrain.build import build

STEPS = 22  # an epoch of digits in batches of 64


def experiment_of(epochs, *extensions, **optim):
    config = get_config()
    config.train.batch_size, config.train.epochs, config.train.extensions = 64, epochs, extensions
    config.optim.base_lr, config.optim.warmup_epochs = 0.4, 1.0
    config.optim.update(optim)
    return build(config)


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


def test_each_extension_holds_from_its_step_on():
    experiment = experiment_of(30, (40, 4, "replan"), (100, 10, "cosine_from_here"))
    first, second = (warmup_cosine(0.4, 64, STEPS, 1, epochs) for epochs in (4, 10))
    np.testing.assert_allclose(rates(experiment.schedule, range(0, 40, 7)), rates(first, range(0, 40, 7)), rtol=1e-6)
    np.testing.assert_allclose(
        rates(experiment.schedule, range(40, 100, 7)), rates(second, range(40, 100, 7)), rtol=1e-6
    )
    begin, end, last = 100, 30 * STEPS, 0.001 * 0.1
    expected = [
        last + (float(second(begin)) - last) * (1 + np.cos(np.pi * (step - begin) / (end - begin))) / 2
        for step in range(begin, end + 1, 80)
    ]
    np.testing.assert_allclose(rates(experiment.schedule, range(begin, end + 1, 80)), expected, rtol=1e-4)
    assert experiment.plan.shorter == ((40, 4 * STEPS), (100, 10 * STEPS))
    assert experiment.plan.total_steps == end


def test_extending_a_constant_rate_is_planning_it_from_the_start():
    extended = experiment_of(20, (150, 10, "replan"), schedule="wsd")
    planned = warmup_stable_decay(0.4, 64, STEPS, 1, 20)
    np.testing.assert_array_equal(
        rates(extended.schedule, range(0, 20 * STEPS, 9)), rates(planned, range(0, 20 * STEPS, 9))
    )
    assert extended.plan.kept == (16 * STEPS,)
    assert experiment_of(20, (150, 10, "cosine_from_here"), schedule="wsd").plan.kept == ()


def test_rate_that_drops_never_is_constant():
    assert set(rates(experiment_of(10, schedule="drops").schedule, (22, 100, 219))) == {np.float32(0.1)}
