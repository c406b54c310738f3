import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from vicreg_jax.losses.normalize import l2_normalize


@jax.jit
def value_and_pull_back(z, cotangent):
    value, pull_back = jax.vjp(l2_normalize, z)
    return value, pull_back(cotangent)[0]


@jax.jit
def curvature(z, cotangent, direction):
    """The derivative along a direction of the input's cotangent."""
    return jax.grad(lambda z: jnp.vdot(jax.vjp(l2_normalize, z)[1](cotangent)[0], direction))(z)


def reference(z, cotangent):
    z = np.asarray(z, np.float64)
    norm = np.linalg.norm(z, axis=1, keepdims=True)
    unit = z / norm
    return unit, (cotangent - unit * np.sum(cotangent * unit, axis=1, keepdims=True)) / norm


def rows(seed=0):
    return np.random.default_rng(seed).normal(size=(4, 5))


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        *[(np.float32, scale) for scale in (1.0, 1e-15, 1e-18, 1e30, 1e35)],
        *[(np.float64, scale) for scale in (1.0, 1e-150, 1e300)],
    ],
)
def test_value_and_gradient_at_any_scale(dtype, scale):
    z, cotangent = (scale * rows()).astype(dtype), rows(1).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        value, gradient = value_and_pull_back(z, cotangent)
    assert value.dtype == dtype
    # The reference's squares would overflow or underflow float64.
    expected, expected_gradient = reference(z.astype(np.float64) / scale, cotangent)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(value, expected, atol=2 * eps)
    np.testing.assert_allclose(np.linalg.norm(value, axis=1), 1, atol=2 * eps)
    np.testing.assert_allclose(np.asarray(gradient, np.float64) * scale, expected_gradient, atol=10 * eps)


def test_maximum_entries():
    value, gradient = value_and_pull_back(np.full((1, 4), np.finfo(np.float32).max), np.eye(1, 4, dtype=np.float32))
    np.testing.assert_allclose(value, np.full((1, 4), 0.5), rtol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-38)


def test_entries_of_one_row_at_different_scales():
    z, cotangent = np.array([[1e30, 1e-15, 0.0], [3e-15, 4e-15, 1e-30]], np.float32), rows(1)[:2, :3]
    value, gradient = value_and_pull_back(z, cotangent.astype(np.float32))
    expected, expected_gradient = reference(z, cotangent)
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("row", [0.0, -0.0, 1e-25])
def test_rows_without_a_direction_and_their_gradient_are_zero(row):
    z, cotangent, direction = (rows(seed).astype(np.float32) for seed in range(3))
    z[1] = row
    value, gradient = value_and_pull_back(z, cotangent)
    second = curvature(z, cotangent, direction)
    for z_like in (value, gradient, second):
        assert np.all(np.isfinite(z_like))
        assert not np.any(z_like[1])
        assert np.all(np.any(np.delete(z_like, 1, axis=0), axis=1))


def test_one_hot_rows():
    """The direction does not depend on the nonzero entry, only on the others."""
    z = np.array([[4.0, 0.0, 0.0], [0.0, -0.5, 0.0]], np.float32)
    value, gradient = value_and_pull_back(z, np.ones((2, 3), np.float32))
    np.testing.assert_allclose(value, [[1, 0, 0], [0, -1, 0]], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0, 0.25, 0.25], [2, 0, 2]], rtol=1e-6, atol=1e-6)


def test_ties_for_the_maximum_entry():
    value, gradient = value_and_pull_back(np.array([[2.0, -2.0]]), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(value, np.array([[1, -1]]) / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.array([[1, 1]]) / np.sqrt(32), rtol=1e-6)


def test_nan_propagates_within_its_row():
    z = rows().astype(np.float32)
    z[1, 2] = np.nan
    value = jax.jit(l2_normalize)(z)
    assert np.all(np.isnan(value[1]))
    assert np.all(np.isfinite(np.delete(value, 1, axis=0)))


def test_higher_derivatives_forward_and_reverse():
    with jax.enable_x64(True):
        check_grads(jax.jit(l2_normalize), (jnp.asarray(rows()),), order=2, modes=("fwd", "rev"), rtol=1e-6, atol=1e-6)
