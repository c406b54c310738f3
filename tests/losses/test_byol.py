from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.losses import byol_loss

SLOW = pytest.mark.slow
SHAPES = [(4, 6), *(pytest.param(s, marks=SLOW) for s in [(2, 1024), (32, 32), (257, 33), (512, 2)])]
PRECISIONS = [(np.float32, 1e-5), (np.float64, 1e-11)]

compiled_loss = jax.jit(byol_loss)


@partial(jax.jit, static_argnames="stop_gradient")
def value_and_gradients(*embeddings, **options):
    return jax.value_and_grad(partial(byol_loss, **options), argnums=(0, 1, 2, 3))(*embeddings)


@pytest.fixture(scope="module")
def reference(crossed_cosines):
    """Value and four gradients from 2 - 2 cos in both directions, in float64."""

    def value_and_gradients(*embeddings):
        value, gradients = crossed_cosines(*embeddings)
        return 4 - 2 * value, -2 * gradients

    return value_and_gradients


def embeddings(shape, scale=1.0, shift=0.0, seed=0):
    return scale * np.random.default_rng(seed).normal(shift, size=(4, *shape))


def assert_close(actual, expected, rtol):
    """Errors are relative to the maximum of each array."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=rtol * np.abs(e).max())


@pytest.mark.parametrize("stop_gradient", [True, False])
@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-2, 2), seed=st.integers(0, 1000))
def test_value_and_gradients(reference, shape, dtype, rtol, stop_gradient, scale, shift, seed):
    inputs = embeddings(shape, scale, shift, seed).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        value, gradients = value_and_gradients(*inputs, stop_gradient=stop_gradient)
    expected, expected_gradients = reference(*inputs)
    assert value.dtype == dtype
    if stop_gradient:
        assert not np.any(gradients[2:])  # the targets
        gradients, expected_gradients = gradients[:2], expected_gradients[:2]
    assert_close((value, *gradients), (expected, *expected_gradients), rtol)


def test_textbook_form():
    """Value and gradients equal those of the form in the docstring."""

    def textbook(p_a, p_b, t_a, t_b):
        u_a, u_b, v_a, v_b = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (p_a, p_b, t_a, t_b))
        return jnp.mean(2 - 2 * jnp.sum(u_a * v_b, axis=1) + 2 - 2 * jnp.sum(u_b * v_a, axis=1))

    with jax.enable_x64(True):
        actual, expected = (jax.jit(jax.value_and_grad(f, (0, 1)))(*embeddings((4, 6))) for f in (byol_loss, textbook))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-12)


def test_gradient_into_the_targets_is_stopped_by_default():
    inputs = embeddings((32, 32)).astype(np.float32)
    value, gradients = value_and_gradients(*inputs)
    same_value, same_gradients = value_and_gradients(*inputs, stop_gradient=False)
    assert value == same_value
    np.testing.assert_array_equal(gradients[:2], same_gradients[:2])
    assert not np.any(gradients[2:])
    assert np.all(same_gradients[2:])


def test_each_prediction_is_compared_with_the_other_views_target():
    x, y, z, w = np.eye(4, dtype=np.float32)[:, None]
    assert compiled_loss(x, y, y, x) == 0
    assert compiled_loss(x, y, z, x) == 2
    assert compiled_loss(x, y, x, y) == compiled_loss(x, y, z, w) == 4
    assert compiled_loss(x, y, -y, -x) == 8


def test_norm_of_a_row_does_not_matter():
    """Also where its square overflows or underflows in float32; powers of two scale without rounding."""
    inputs = embeddings((32, 32)).astype(np.float32)
    norms = np.float32(2) ** np.random.default_rng(1).integers(-60, 100, size=(4, 32, 1))
    value, gradients = value_and_gradients(*inputs, stop_gradient=False)
    same_value, scaled_gradients = value_and_gradients(*inputs * norms, stop_gradient=False)
    assert same_value == value
    np.testing.assert_array_equal(gradients, norms * scaled_gradients)


def test_small_values_are_not_lost(reference):
    """Predictions close to their targets: 2 - 2 cos, here 1e-6 per row, would keep one digit in float32."""
    t_a, t_b, noise_a, noise_b = embeddings((32, 32))
    inputs = np.stack([t_b + 1e-3 * noise_b, t_a + 1e-3 * noise_a, t_a, t_b]).astype(np.float32)
    value, gradients = value_and_gradients(*inputs, stop_gradient=False)
    expected, expected_gradients = reference(*inputs)
    assert_close(value, expected, 1e-5)
    assert_close(
        gradients, tuple(expected_gradients), 2e-4
    )  # 1e-7, the rounding of the unit rows, over 1e-3, their difference


@pytest.mark.parametrize("tiny", [0.0, 1e-40, 1e-25])
def test_zero_vectors(reference, tiny):
    """They count as the zero vector, at distance 1 from every unit vector, without a gradient."""
    inputs = embeddings((32, 32)).astype(np.float32)
    expected, expected_gradients = reference(*inputs[:, 6:])
    inputs[:2, :4] *= tiny
    inputs[2:, 2:6] *= tiny
    value, gradients = value_and_gradients(*inputs, stop_gradient=False)
    np.testing.assert_allclose(value, (26 * expected + 8) / 32, rtol=1e-6)
    rest = np.pad(26 / 32 * expected_gradients, ((0, 0), (6, 0), (0, 0)))
    np.testing.assert_allclose(gradients, rest, atol=1e-8)
