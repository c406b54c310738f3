import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.losses import barlow_twins_loss, covariance_term
from vicreg_jax.losses.covariance import centered


def test_constant_dimensions_are_zero():
    z = jnp.tile(jnp.asarray([0.1, 1e5 / 3, -7e7 / 9]), (7, 1))
    assert not jnp.any(jax.jit(lambda z: centered(z, None))(z))
    assert barlow_twins_loss(z, z)[1:] == (3, 0)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_gradient_under_a_large_mean(shape):
    """Against float64 on the same rounded embeddings."""
    batch, dim = shape
    z = np.random.default_rng(0).normal(1000, 1, size=shape).astype(np.float32)
    x = z.astype(np.float64) - z.mean(axis=0, dtype=np.float64)
    matrix = x.T @ x / (batch - 1)
    np.fill_diagonal(matrix, 0)
    expected = 4 * x @ matrix / (batch - 1) / dim
    actual = jax.jit(jax.grad(covariance_term))(z)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_derivative():
    z, direction = np.random.default_rng(1).normal(size=(2, 5, 3))
    with jax.enable_x64(True):
        _, tangent = jax.jvp(lambda z: centered(z, None), (jnp.asarray(z),), (jnp.asarray(direction),))
        np.testing.assert_allclose(tangent, direction - direction.mean(axis=0), atol=1e-14)
