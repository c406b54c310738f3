from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.losses import koleo_term

SLOW = pytest.mark.slow


@cache
def compiled():
    return jax.jit(jax.value_and_grad(koleo_term))


def reference(z):
    u = z / np.linalg.norm(z, axis=1, keepdims=True)
    distances = np.linalg.norm(u[:, None] - u[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return -np.mean(np.log(distances.min(axis=1) + 1e-8))


@pytest.mark.parametrize("shape", [(7, 3), pytest.param((5, 16), marks=SLOW), pytest.param((2, 4), marks=SLOW)])
def test_value_and_gradient(shape):
    z, direction = np.random.default_rng(0).normal(size=(2, *shape))
    with jax.enable_x64(True):
        value, gradient = compiled()(z)
    np.testing.assert_allclose(value, reference(z), rtol=1e-12)
    ahead, behind = (reference(z + step * direction) for step in (1e-6, -1e-6))
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), (ahead - behind) / 2e-6, rtol=1e-6)


@SLOW
def test_equal_rows_have_a_large_value_and_no_gradient():
    for z in (np.ones((6, 3), np.float32), np.zeros((6, 3), np.float32)):
        value, gradient = compiled()(z)
        np.testing.assert_allclose(value, -np.log(1e-8), rtol=1e-6)
        assert not np.any(gradient)


@SLOW
def test_two_equal_rows_among_others():
    z = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    z[3] = z[1]
    value, gradient = compiled()(z)
    np.testing.assert_allclose(value, reference(z.astype(np.float64)), rtol=1e-4)
    assert np.all(np.isfinite(gradient))


def test_errors():
    for epsilon in (0, -1.0):
        with pytest.raises(ValueError, match=f"epsilon must be above 0; got {epsilon}"):
            koleo_term(jnp.ones((4, 3)), epsilon=epsilon)
