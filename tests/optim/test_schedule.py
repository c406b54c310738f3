"""The schedules at their corners and against the official rule; base learning rates against their sources."""

import doctest
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.optim import (
    barlow_twins_base_lr,
    byol_base_lr,
    simclr_base_lr,
    vicreg_base_lr,
    warmup_cosine,
    warmup_drops,
    warmup_stable_decay,
)
from vicreg_jax.optim import schedule as schedule_module


def official(step, base_lr, batch_size, steps_per_epoch, warmup_epochs, epochs):
    peak = base_lr * batch_size / 256
    warmup_steps, max_steps = warmup_epochs * steps_per_epoch, epochs * steps_per_epoch
    if step < warmup_steps:
        return peak * step / warmup_steps
    q = 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (max_steps - warmup_steps)))
    return peak * q + 0.001 * peak * (1 - q)


def test_every_step_matches_the_official_rule():
    arguments = (0.3, 1024, 7, 3, 20)
    expected = [official(step, *arguments) for step in range(140)]
    with jax.enable_x64(True):
        actual = np.asarray(jax.vmap(warmup_cosine(*arguments))(jnp.arange(140)))
        assert actual.dtype == np.float64
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
    actual = jax.vmap(warmup_cosine(*arguments))(jnp.arange(140))
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_corners():
    schedule = warmup_cosine(0.2, batch_size=2048, steps_per_epoch=100, warmup_epochs=10, epochs=100)
    assert schedule(0) == 0
    assert schedule(500) == pytest.approx(0.8)
    assert schedule(1000) == pytest.approx(1.6)
    assert schedule(5500) == pytest.approx((1.6 + 0.0016) / 2)
    assert 0.0016 < schedule(9999) < 0.00161
    assert schedule(10_000) == pytest.approx(0.0016, rel=1e-4)
    assert schedule(20_000) == schedule(10_000)  # the cosine does not rise after the end


def test_without_warmup_it_starts_at_the_peak():
    assert warmup_cosine(0.4, 256, 10, warmup_epochs=0, epochs=2)(0) == pytest.approx(0.4)


def test_run_shorter_than_its_warmup_rises_to_the_end():
    schedule = warmup_cosine(1.0, 256, 10, warmup_epochs=10, epochs=2)
    np.testing.assert_allclose([schedule(step) for step in (0, 10, 20)], [0, 0.1, 0.2], rtol=1e-6)


def test_final_fraction():
    schedule = warmup_cosine(1.0, 256, 10, warmup_epochs=1, epochs=2, final_fraction=0.25)
    assert schedule(20) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("steps_per_epoch", 0), ("epochs", 0), ("warmup_epochs", -1), ("base_lr", -0.1)],
)
def test_arguments_out_of_range_are_refused(name, value):
    arguments = {"base_lr": 0.2, "batch_size": 256, "steps_per_epoch": 10, "warmup_epochs": 1, "epochs": 2}
    with pytest.raises(ValueError, match=f"^{name} must be a number .*; got {value}$"):
        warmup_cosine(**{**arguments, name: value})


def warmup_stable_decay_by_step(step, base_lr, batch_size, steps_per_epoch, warmup_epochs, epochs, decay, final):
    peak = np.float64(base_lr) * batch_size / 256
    warmup, total = round(warmup_epochs * steps_per_epoch), round(epochs * steps_per_epoch)
    start = max(warmup, total - round(decay * total))
    if step < warmup:
        return peak * step / warmup
    if step < start:
        return peak
    done = min(1.0, (step - start) / max(1, total - start))
    return final * peak + (1 - final) * peak * (1 - np.sqrt(np.float64(done)))


@pytest.mark.parametrize(
    "arguments",
    [
        (0.3, 1024, 7, 3, 20, 0.2, 0.001),
        (0.3, 256, 4, 0, 20, 1.0, 0.0),  # all of it is decay
        (0.3, 256, 4, 15, 20, 0.5, 0.1),  # the decay begins right after the warmup
        (0.3, 256, 4, 30, 20, 0.2, 0.1),  # the warmup is longer than the run
        (0.3, 256, 5, 0.5, 20, 0.001, 0.5),  # the decay has no whole step
    ],
)
def test_warmup_stable_decay_at_every_step(arguments):
    steps = 160
    expected = [warmup_stable_decay_by_step(step, *arguments) for step in range(steps)]
    actual = jax.jit(jax.vmap(warmup_stable_decay(*arguments)))(jnp.arange(steps))
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-7)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            jax.vmap(warmup_stable_decay(*arguments))(jnp.arange(steps)), expected, rtol=1e-12, atol=1e-16
        )


def test_warmup_stable_decay_is_the_same_for_any_length_before_the_decay():
    short, long = (warmup_stable_decay(0.3, 512, 10, 2, epochs) for epochs in (10, 30))
    np.testing.assert_array_equal([short(step) for step in range(81)], [long(step) for step in range(81)])
    assert short(82) < long(82)


@pytest.mark.parametrize(("name", "value"), [("decay_fraction", 0), ("decay_fraction", 1.1), ("warmup_epochs", -1)])
def test_arguments_of_warmup_stable_decay_out_of_range_are_refused(name, value):
    arguments = {"base_lr": 0.2, "batch_size": 256, "steps_per_epoch": 10, "warmup_epochs": 1, "epochs": 2}
    with pytest.raises(ValueError, match=f"^{name} must be a number .*; got {value}$"):
        warmup_stable_decay(**{**arguments, name: value})


def drops_by_epoch(step, base_lr, batch_size, steps_per_epoch, warmup_epochs, drop_epochs, factor):
    rate = base_lr * batch_size / 256
    if step < warmup_epochs * steps_per_epoch:
        return rate * step / (warmup_epochs * steps_per_epoch)
    for drop in drop_epochs:
        rate *= factor if step >= drop * steps_per_epoch else 1
    return rate


@pytest.mark.parametrize(
    "arguments",
    [
        (0.03, 512, 5, 0, (12, 16), 0.1),
        (0.3, 256, 4, 3, (5.5, 7), 0.25),
        (0.3, 256, 4, 5, (2, 8), 0.1),  # the first drop is during the warmup
        (0.3, 256, 4, 0, (), 0.1),
    ],
)
def test_drops_happen_at_their_epochs(arguments):
    expected = [drops_by_epoch(step, *arguments) for step in range(100)]
    actual = jax.jit(jax.vmap(warmup_drops(*arguments)))(jnp.arange(100))
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.vmap(warmup_drops(*arguments))(jnp.arange(100)), expected, rtol=1e-12)
    assert warmup_drops(*arguments)(99) == pytest.approx(expected[99])


@pytest.mark.parametrize("drop_epochs", [(0, 5), (5, 5), (6, 5), (-1,)])
def test_drops_must_be_increasing_and_above_zero(drop_epochs):
    with pytest.raises(ValueError, match=r"^drop_epochs must be increasing numbers above 0; got \("):
        warmup_drops(0.1, 256, 10, 0, drop_epochs)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("steps_per_epoch", 0), ("warmup_epochs", -1), ("base_lr", -0.1), ("factor", -0.1)],
)
def test_arguments_of_the_drops_out_of_range_are_refused(name, value):
    arguments = {"base_lr": 0.2, "batch_size": 256, "steps_per_epoch": 10, "warmup_epochs": 1, "drop_epochs": (2,)}
    with pytest.raises(ValueError, match=f"^{name} must be a number .*; got {value}$"):
        warmup_drops(**{**arguments, name: value})


@pytest.mark.parametrize(
    ("batch_size", "epochs", "base_lr"),
    [
        (128, 100, 0.8),
        (256, 100, 0.5),
        (512, 100, 0.4),
        (1024, 100, 0.3),
        (2048, 100, 0.3),
        (2048, 1000, 0.2),
    ],
)
def test_vicreg_base_lr(batch_size, epochs, base_lr):
    assert vicreg_base_lr(batch_size, epochs) == base_lr


def test_barlow_twins_base_lr():
    table = {128: 0.7, 256: 0.4, 512: 0.3, 1024: 0.25, 2048: 0.2, 4096: 0.2}
    assert {batch_size: barlow_twins_base_lr(batch_size) for batch_size in table} == table
    with pytest.raises(ValueError, match=r"^batch_size must be one of 128, 256, 512, 1024, 2048, 4096; got 64$"):
        barlow_twins_base_lr(64)


@pytest.mark.parametrize(("batch_size", "peak"), [(256, 1.2), (512, 1.69705627), (4096, 4.8)])
def test_simclr_peak_follows_the_square_root_of_the_batch(batch_size, peak):
    schedule = warmup_cosine(simclr_base_lr(batch_size), batch_size, 10, warmup_epochs=0, epochs=10)
    assert schedule(0) == pytest.approx(peak)


def test_byol_base_lr():
    table = {40: 0.45, 100: 0.45, 300: 0.3, 1000: 0.2}
    assert {epochs: byol_base_lr(epochs) for epochs in table} == table
    with pytest.raises(ValueError, match=r"^epochs must be one of 40, 100, 300, 1000; got 200$"):
        byol_base_lr(200)


def test_docstring_examples():
    result = doctest.testmod(schedule_module)
    assert result.attempted > 0
    assert result.failed == 0
