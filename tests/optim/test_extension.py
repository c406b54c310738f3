"""Schedules of runs that are trained longer, against float64 NumPy."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.optim import cosine_from, extension, switched, warmup_cosine


def test_switched_is_the_one_before_and_the_other_from_there_on():
    short, long = (warmup_cosine(0.3, 256, 10, warmup_epochs=1, epochs=epochs) for epochs in (10, 20))
    steps = jnp.arange(210)
    rates = jax.jit(jax.vmap(switched(short, 60, long)))(steps)
    np.testing.assert_allclose(rates[:60], jax.vmap(short)(steps[:60]), rtol=1e-6)
    np.testing.assert_allclose(rates[60:], jax.vmap(long)(steps[60:]), rtol=1e-6)


def cosine_by_step(step, schedule, start, total, final):
    if step < start:
        return schedule(step)
    first = schedule(start)
    last = min(first, final)
    return last + (first - last) * (1 + np.cos(np.pi * min(1.0, (step - start) / (total - start)))) / 2


@pytest.mark.parametrize("final", [0.0, 0.02, 0.5])  # the last is above the rate where it begins
def test_cosine_from_a_step(final):
    def schedule(step):
        return 0.3 * (1 - step / 1000)

    expected = [cosine_by_step(np.float64(step), schedule, 70, 150, final) for step in range(200)]
    actual = jax.jit(jax.vmap(cosine_from(schedule, 70, 150, final)))(jnp.arange(200))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-8)
    with jax.enable_x64(True):
        actual = jax.vmap(cosine_from(schedule, 70, 150, final))(jnp.arange(200))
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-16)


def test_cosine_must_have_steps_left():
    with pytest.raises(ValueError, match=r"^total_steps must be above step=70; got 70$"):
        cosine_from(lambda step: 0.1, 70, 70, 0.0)


def test_docstring_examples():
    result = doctest.testmod(extension)
    assert result.attempted > 0
    assert result.failed == 0
