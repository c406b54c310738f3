import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.losses import byol_loss

SHAPES = [(2, 1024), (32, 32), (257, 33), (512, 2)]
PRECISIONS = [(np.float32, 1e-5), (np.float64, 1e-11)]

compiled_loss = jax.jit(byol_loss)
value_and_gradients = jax.jit(jax.value_and_grad(byol_loss, argnums=(0, 1, 2, 3)))


def reference(*embeddings):
    """2 - 2 cos both ways in float64, and its gradients by the predictions."""
    p_a, p_b, t_a, t_b = (np.asarray(z, np.float64) for z in embeddings)
    value, gradients = 0.0, []
    for p, t in ((p_a, t_b), (p_b, t_a)):
        length = np.linalg.norm(p, axis=1, keepdims=True)
        p, t = p / length, t / np.linalg.norm(t, axis=1, keepdims=True)
        cosine = np.sum(p * t, axis=1, keepdims=True)
        value += np.mean(2 - 2 * cosine)
        gradients.append(-2 * (t - cosine * p) / length / len(p))
    return value, gradients


def embeddings(shape, scale=1.0, shift=0.0, seed=0):
    return scale * np.random.default_rng(seed).normal(shift, size=(4, *shape))


def assert_close(actual, expected, rtol):
    """A value relative to itself, a gradient relative to its largest entry."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=rtol * np.abs(e).max())


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-2, 2), seed=st.integers(0, 1000))
def test_value_and_gradients(shape, dtype, rtol, scale, shift, seed):
    inputs = embeddings(shape, scale, shift, seed).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        value, gradients = value_and_gradients(*inputs)
    assert value.dtype == dtype
    assert_close((value, gradients[:2]), reference(*inputs), rtol)
    assert not np.any(gradients[2:])  # the targets


def test_prediction_of_one_view_meets_the_target_of_the_other():
    x, y, z, w = np.eye(4, dtype=np.float32)[:, None]
    assert compiled_loss(x, y, y, x) == 0
    assert compiled_loss(x, y, z, x) == 2
    assert compiled_loss(x, y, x, y) == compiled_loss(x, y, z, w) == 4
    assert compiled_loss(x, y, -y, -x) == 8


def test_length_of_a_row_does_not_matter():
    """Up to where its square overflows or vanishes in float32; powers of two, which leave no rounding."""
    inputs = embeddings((32, 32)).astype(np.float32)
    lengths = np.float32(2) ** np.random.default_rng(1).integers(-60, 100, size=(4, 32, 1))
    value, gradients = value_and_gradients(*inputs)
    same_value, scaled_gradients = value_and_gradients(*inputs * lengths)
    assert same_value == value
    np.testing.assert_array_equal(gradients[:2], lengths[:2] * scaled_gradients[:2])


def test_small_values_are_not_lost():
    """Predictions a thousandth off their targets: of 2 - 2 cos, here 1e-6 a row, float32 would leave one digit."""
    t_a, t_b, noise_a, noise_b = embeddings((32, 32))
    inputs = np.stack([t_b + 1e-3 * noise_b, t_a + 1e-3 * noise_a, t_a, t_b]).astype(np.float32)
    value, gradients = value_and_gradients(*inputs)
    expected, expected_gradients = reference(*inputs)
    assert_close(value, expected, 1e-5)
    assert_close(gradients[:2], expected_gradients, 2e-4)  # rounding of the unit rows, 1e-7, by their difference


@pytest.mark.parametrize("tiny", [0.0, 1e-40, 1e-25])
def test_zero_vectors(tiny):
    """As the zero vector they are at distance 1 from every unit vector, and feel no pull."""
    inputs = embeddings((32, 32)).astype(np.float32)
    expected, expected_gradients = reference(*inputs[:, 6:])
    inputs[:2, :4] *= tiny
    inputs[2:, 2:6] *= tiny
    value, gradients = value_and_gradients(*inputs)
    np.testing.assert_allclose(value, (26 * expected + 8) / 32, rtol=1e-6)
    rest = np.pad(26 / 32 * np.array(expected_gradients), ((0, 0), (6, 0), (0, 0)))
    np.testing.assert_allclose(gradients[:2], rest, atol=1e-8)
