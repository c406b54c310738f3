"""The schedule at its corners and against the official loop's arithmetic."""

import doctest
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.optim import schedule as schedule_module
from vicreg_jax.optim import vicreg_base_lr, warmup_cosine


def official(step, base_lr, batch_size, steps_per_epoch, warmup_epochs, epochs):
    peak = base_lr * batch_size / 256
    warmup_steps, max_steps = warmup_epochs * steps_per_epoch, epochs * steps_per_epoch
    if step < warmup_steps:
        return peak * step / warmup_steps
    q = 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (max_steps - warmup_steps)))
    return peak * q + 0.001 * peak * (1 - q)


def test_every_step_equals_the_official_rule():
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
    assert schedule(20_000) == schedule(10_000)  # the cosine does not rise again


def test_without_warmup_it_starts_at_the_peak():
    assert warmup_cosine(0.4, 256, 10, warmup_epochs=0, epochs=2)(0) == pytest.approx(0.4)


def test_run_shorter_than_its_warmup_climbs_to_its_end():
    schedule = warmup_cosine(1.0, 256, 10, warmup_epochs=10, epochs=2)
    np.testing.assert_allclose([schedule(step) for step in (0, 10, 20)], [0, 0.1, 0.2], rtol=1e-6)


def test_final_fraction():
    schedule = warmup_cosine(1.0, 256, 10, warmup_epochs=1, epochs=2, final_fraction=0.25)
    assert schedule(20) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("steps_per_epoch", 0), ("epochs", 0), ("warmup_epochs", -1), ("base_lr", -0.1)],
)
def test_unusable_argument_is_named(name, value):
    arguments = {"base_lr": 0.2, "batch_size": 256, "steps_per_epoch": 10, "warmup_epochs": 1, "epochs": 2}
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        warmup_cosine(**{**arguments, name: value})


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
def test_base_learning_rates_are_the_papers(batch_size, epochs, base_lr):
    assert vicreg_base_lr(batch_size, epochs) == base_lr


def test_docstring_examples():
    result = doctest.testmod(schedule_module)
    assert result.attempted > 0
    assert result.failed == 0
