import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.losses import simsiam_loss

SHAPES = [(2, 1024), (32, 32), (257, 33), (512, 2)]
PRECISIONS = [(np.float32, 1e-5), (np.float64, 1e-11)]

compiled_loss = jax.jit(simsiam_loss)
value_and_gradients = jax.jit(jax.value_and_grad(simsiam_loss, argnums=(0, 1, 2, 3)))


def reference(*embeddings):
    """Value and gradients by the predictions in float64."""
    p_a, p_b, z_a, z_b = (np.asarray(z, np.float64) for z in embeddings)
    value, gradients = 0.0, []
    for p, z in ((p_a, z_b), (p_b, z_a)):
        length = np.linalg.norm(p, axis=1, keepdims=True)
        p, z = p / length, z / np.linalg.norm(z, axis=1, keepdims=True)
        cosine = np.sum(p * z, axis=1, keepdims=True)
        value -= np.mean(cosine) / 2
        gradients.append(-(z - cosine * p) / length / len(p) / 2)
    return value, gradients


def embeddings(shape, scale=1.0, shift=0.0, seed=0):
    return scale * np.random.default_rng(seed).normal(shift, size=(4, *shape))


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-2, 2), seed=st.integers(0, 1000))
def test_value_and_gradients(shape, dtype, rtol, scale, shift, seed):
    inputs = embeddings(shape, scale, shift, seed).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        value, gradients = value_and_gradients(*inputs)
    expected, expected_gradients = reference(*inputs)
    assert value.dtype == dtype
    np.testing.assert_allclose(value, expected, rtol=0, atol=rtol / 10)  # cosines of either sign cancel
    for actual, of_prediction in zip(gradients[:2], expected_gradients, strict=True):
        np.testing.assert_allclose(actual, of_prediction, rtol=0, atol=rtol * np.abs(of_prediction).max())
    assert not np.any(gradients[2:])  # the projections


def test_prediction_of_one_view_meets_the_projection_of_the_other():
    x, y, z, w = np.eye(4, dtype=np.float32)[:, None]
    assert compiled_loss(x, y, y, x) == -1
    assert compiled_loss(x, y, z, x) == -0.5
    assert compiled_loss(x, y, x, y) == compiled_loss(x, y, z, w) == 0
    assert compiled_loss(x, y, -y, -x) == 1


def test_length_of_a_row_does_not_matter():
    """Up to where its square overflows or vanishes in float32; powers of two, which leave no rounding."""
    inputs = embeddings((32, 32)).astype(np.float32)
    lengths = np.float32(2) ** np.random.default_rng(1).integers(-60, 100, size=(4, 32, 1))
    value, gradients = value_and_gradients(*inputs)
    same_value, scaled_gradients = value_and_gradients(*inputs * lengths)
    assert same_value == value
    np.testing.assert_array_equal(gradients[:2], lengths[:2] * scaled_gradients[:2])


@pytest.mark.parametrize("tiny", [0.0, 1e-40, 1e-25])
def test_zero_vectors(tiny):
    """Their cosine with anything is 0, without a pull."""
    inputs = embeddings((32, 32)).astype(np.float32)
    expected, expected_gradients = reference(*inputs[:, 6:])
    inputs[:2, :4] *= tiny
    inputs[2:, 2:6] *= tiny
    value, gradients = value_and_gradients(*inputs)
    np.testing.assert_allclose(value, 26 / 32 * expected, rtol=1e-5)
    rest = np.pad(26 / 32 * np.array(expected_gradients), ((0, 0), (6, 0), (0, 0)))
    np.testing.assert_allclose(gradients[:2], rest, atol=1e-8)
