import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.losses import triplet_loss

SLOW = pytest.mark.slow
SHAPES = [(4, 6), *(pytest.param(s, marks=SLOW) for s in [(2, 1024), (32, 32), (257, 33), (512, 1)])]
PRECISIONS = [(np.float32, 1e-5), (np.float64, 1e-11)]

value_and_gradients = jax.jit(jax.value_and_grad(triplet_loss, argnums=(0, 1, 2)))


def reference(anchor, positive, negative, margin=1.0):
    """Value, gradients and the mean of the squared distances, in float64."""
    a, p, n = (np.asarray(z, np.float64) for z in (anchor, positive, negative))
    to_positive, to_negative = np.sum((a - p) ** 2, axis=1), np.sum((a - n) ** 2, axis=1)
    hinge = to_positive - to_negative + margin
    active = (hinge > 0)[:, None] / len(a)
    gradients = [2 * active * (n - p), 2 * active * (p - a), 2 * active * (a - n)]
    return np.mean(np.maximum(0, hinge)), gradients, np.mean(to_positive + to_negative)


def embeddings(shape, scale=1.0, shift=0.0, seed=0):
    return scale * np.random.default_rng(seed).normal(shift, size=(3, *shape))


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-2, 2), seed=st.integers(0, 1000))
def test_value_and_gradients(shape, dtype, rtol, scale, shift, seed):
    inputs = embeddings(shape, scale, shift, seed).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        value, gradients = value_and_gradients(*inputs)
    expected, expected_gradients, distances = reference(*inputs)
    assert value.dtype == dtype
    np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol / 10 * distances)  # their difference cancels
    for actual, of_input in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(actual, of_input, rtol=0, atol=rtol * np.abs(of_input).max())


def test_active_and_inactive_triplets():
    """Squared distances 1 and 4 (or 4 and 1), with a margin on either side of their difference."""
    anchor, near, far = (jnp.array([[x, 0.0]]) for x in (0.0, 1.0, -2.0))
    assert triplet_loss(anchor, near, far, margin=2.0) == 0
    assert triplet_loss(anchor, near, far, margin=4.0) == 1
    assert triplet_loss(anchor, far, near, margin=0.0) == 3
    both = (jnp.concatenate(rows) for rows in ((anchor, anchor), (near, far), (far, near)))
    value, (of_anchor, of_positive, of_negative) = value_and_gradients(*both, margin=0.0)
    assert value == 1.5
    np.testing.assert_array_equal(of_anchor, [[0, 0], [3, 0]])
    np.testing.assert_array_equal(of_positive, [[0, 0], [-2, 0]])
    np.testing.assert_array_equal(of_negative, [[0, 0], [-1, 0]])


def test_nothing_is_normalized():
    inputs = embeddings((32, 32)).astype(np.float32)
    value, gradients = value_and_gradients(*inputs, margin=0.5)
    scaled_value, scaled_gradients = value_and_gradients(*4 * inputs, margin=8.0)
    assert scaled_value == 16 * value
    np.testing.assert_array_equal(scaled_gradients, 4 * np.array(gradients))


def test_traced_margin():
    """Its derivative is the fraction of active triplets."""
    inputs = embeddings((32, 32)).astype(np.float32)
    value, active = jax.jit(jax.value_and_grad(lambda margin: triplet_loss(*inputs, margin=margin)))(3.0)
    np.testing.assert_allclose(value, reference(*inputs, margin=3.0)[0], rtol=1e-6)
    distances = np.sum((inputs[:1] - inputs[1:]) ** 2, axis=2)
    assert 0 < active == np.mean(distances[0] - distances[1] + 3 > 0) < 1


@pytest.mark.parametrize("value", [0.0, 0.3, 1e4])
def test_collapse_costs_the_margin(value):
    z = np.full((4, 3), value, np.float32)
    loss, gradients = value_and_gradients(z, z, z)
    assert loss == 1
    assert not np.any(gradients)


def test_distances_that_overflow():
    """The squares of 1e20 overflow: a triplet that holds has no loss, and one that does not an infinite one."""
    near, far = jnp.array([[1e20, 0.0]]), jnp.array([[-1e20, 1e20]])
    value, gradients = jax.jit(jax.value_and_grad(triplet_loss, argnums=(0, 1, 2)))(near, near / 2, far)
    assert value == 0
    assert not np.any(gradients)
    value, gradients = jax.jit(jax.value_and_grad(triplet_loss, argnums=(0, 1, 2)))(near, far, near / 2)
    assert value == np.inf
    np.testing.assert_allclose(gradients[0], 2 * (near / 2 - far), rtol=1e-6)
