"""The extra state of a method in the train step: on one device and on four, along its schedule."""

from functools import cache, partial
from itertools import pairwise

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import AxisType

from vicreg_jax.augment import Preprocessing, View
from vicreg_jax.methods import BYOL, MoCo
from vicreg_jax.models import Head
from vicreg_jax.training.mesh import AXES, batch_sharding, replicated, state_shardings
from vicreg_jax.training.plan import Plan
from vicreg_jax.training.state import init_state
from vicreg_jax.training.step import TrainStep

BATCH, STEPS, TOTAL_STEPS = 16, 3, 4


class Backbone(nn.Module):
    """Images to features, with BatchNorm; compiles faster than convolutions."""

    @nn.compact
    def __call__(self, images, *, train=False):
        return nn.relu(Head((12,), output_norm="scale")(images.reshape(len(images), -1), train=train))


METHODS = {
    "byol": BYOL(Backbone(), Head((8, 6)), predictor=Head((8, 6)), momentum=0.6),
    # The keys of two steps fill the queue; the third step overwrites the first.
    "moco": MoCo(Backbone(), Head((8, 6)), queue_size=2 * BATCH, momentum=0.6, final_momentum=0.6, batch_norm_groups=2),
}
MOMENTA = {"byol": [1 - 0.4 * (np.cos(np.pi * step / TOTAL_STEPS) + 1) / 2 for step in range(STEPS)], "moco": [0.6] * 3}
VIEW = View(crop_area=(0.5, 1.0), interpolation="bilinear", flip_probability=0.0, jitter_probability=0.0)


def run(method, data, fsdp):
    """The states before the first step and after each, and the losses."""
    optimizer = optax.sgd(0.02)
    train_step = TrainStep(
        method=method,
        optimizer=optimizer,
        schedule=optax.constant_schedule(0.02),
        views=(VIEW, VIEW),
        preprocessing=Preprocessing(image_size=8, mean=(0.5,), std=(0.5,)),
        monitor=lambda z: {},
        plan=Plan(total_steps=TOTAL_STEPS, steps_per_epoch=1, batch_size=BATCH, log_every=1, save_every=1),
    )
    init = partial(init_state, method=method, optimizer=optimizer, image_shape=(8, 8, 1), num_classes=None)
    mesh = jax.make_mesh((data, fsdp), AXES, (AxisType.Auto,) * 2, devices=jax.devices()[: data * fsdp])
    shapes = jax.eval_shape(init, jax.random.key(0))
    shardings = state_shardings(mesh, shapes, min_size=32)
    state = jax.jit(init, out_shardings=shardings)(jax.random.key(0))
    step = jax.jit(
        train_step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )
    random = np.random.default_rng(0)
    batch = {
        "image": random.integers(0, 256, (BATCH, 8, 8, 1), np.uint8),
        "aspect_ratio": np.ones(BATCH, np.float32),
        "label": np.zeros(BATCH, np.int32),
    }
    states, losses = [jax.device_get(state)], []
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        states.append(jax.device_get(state))
        losses.append(metrics["loss"])
    return states, np.stack(losses)


@cache
def on_one_device(name):
    return run(METHODS[name], 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moco", pytest.param("byol", marks=pytest.mark.slow)])
def test_four_devices_make_the_same_update(name):
    expected_states, expected_losses = on_one_device(name)
    states, losses = run(METHODS[name], 2, 2)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    for state, expected in zip(states, expected_states, strict=True):
        for what in ("params", "batch_stats", "extra_state"):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
                getattr(state, what),
                getattr(expected, what),
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["byol", pytest.param("moco", marks=pytest.mark.slow)])
def test_target_is_updated_along_the_schedule(name):
    states, _ = on_one_device(name)
    for (before, after), momentum in zip(pairwise(states), MOMENTA[name], strict=True):
        target = before.extra_state["target_params"]
        network = {part: after.params[part] for part in target}
        distance = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (target, network)), strict=True))
        assert distance > 1e-3
        jax.tree.map(
            lambda moved, old, new, momentum=momentum: np.testing.assert_allclose(
                moved, momentum * old + (1 - momentum) * new, rtol=1e-5, atol=1e-6
            ),
            after.extra_state["target_params"],
            target,
            network,
        )


@pytest.mark.slow
def test_each_step_overwrites_the_oldest_keys():
    states, _ = on_one_device("moco")
    queues = [state.extra_state["queue"] for state in states]
    changed = [np.any(before != after, axis=1) for before, after in pairwise(queues)]
    first, second = np.arange(2 * BATCH) < BATCH, np.arange(2 * BATCH) >= BATCH
    np.testing.assert_array_equal(changed, [first, second, first])
    assert [int(state.extra_state["queue_position"]) for state in states] == [0, BATCH, 0, BATCH]
