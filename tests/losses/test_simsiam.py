from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.losses import simsiam_loss

SLOW = pytest.mark.slow
SHAPES = [(4, 6), *(pytest.param(s, marks=SLOW) for s in [(2, 1024), (32, 32), (257, 33), (512, 2)])]
PRECISIONS = [(np.float32, 1e-5), (np.float64, 1e-11)]

compiled_loss = jax.jit(simsiam_loss)


@partial(jax.jit, static_argnames="stop_gradient")
def value_and_gradients(*embeddings, **options):
    return jax.value_and_grad(partial(simsiam_loss, **options), argnums=(0, 1, 2, 3))(*embeddings)


@pytest.fixture(scope="module")
def reference(crossed_cosines):
    """Value and four gradients in float64."""

    def value_and_gradients(*embeddings):
        value, gradients = crossed_cosines(*embeddings)
        return -value / 2, -gradients / 2

    return value_and_gradients


def embeddings(shape, scale=1.0, shift=0.0, seed=0):
    return scale * np.random.default_rng(seed).normal(shift, size=(4, *shape))


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
    np.testing.assert_allclose(value, expected, rtol=0, atol=rtol / 10)  # cosines of either sign cancel
    if stop_gradient:
        assert not np.any(gradients[2:])  # the projections
        gradients, expected_gradients = gradients[:2], expected_gradients[:2]
    for actual, gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(actual, gradient, rtol=0, atol=rtol * np.abs(gradient).max())


def test_gradient_into_the_projections_is_stopped_by_default():
    inputs = embeddings((32, 32)).astype(np.float32)
    value, gradients = value_and_gradients(*inputs)
    same_value, same_gradients = value_and_gradients(*inputs, stop_gradient=False)
    assert value == same_value
    np.testing.assert_array_equal(gradients[:2], same_gradients[:2])
    assert not np.any(gradients[2:])
    assert np.all(same_gradients[2:])


def test_each_prediction_is_compared_with_the_other_views_projection():
    x, y, z, w = np.eye(4, dtype=np.float32)[:, None]
    assert compiled_loss(x, y, y, x) == -1
    assert compiled_loss(x, y, z, x) == -0.5
    assert compiled_loss(x, y, x, y) == compiled_loss(x, y, z, w) == 0
    assert compiled_loss(x, y, -y, -x) == 1


def test_norm_of_a_row_does_not_matter():
    """Also where its square overflows or underflows in float32; powers of two scale without rounding."""
    inputs = embeddings((32, 32)).astype(np.float32)
    norms = np.float32(2) ** np.random.default_rng(1).integers(-60, 100, size=(4, 32, 1))
    value, gradients = value_and_gradients(*inputs, stop_gradient=False)
    same_value, scaled_gradients = value_and_gradients(*inputs * norms, stop_gradient=False)
    assert same_value == value
    np.testing.assert_array_equal(gradients, norms * scaled_gradients)


@pytest.mark.parametrize("tiny", [0.0, 1e-40, 1e-25])
def test_zero_vectors(reference, tiny):
    """Their cosine with anything is 0, without a gradient."""
    inputs = embeddings((32, 32)).astype(np.float32)
    expected, expected_gradients = reference(*inputs[:, 6:])
    inputs[:2, :4] *= tiny
    inputs[2:, 2:6] *= tiny
    value, gradients = value_and_gradients(*inputs, stop_gradient=False)
    np.testing.assert_allclose(value, 26 / 32 * expected, rtol=1e-5)
    rest = np.pad(26 / 32 * expected_gradients, ((0, 0), (6, 0), (0, 0)))
    np.testing.assert_allclose(gradients, rest, atol=1e-8)
