import itertools
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.losses import covariance_term, vicreg_loss

SHAPES = [(4, 2), (4, 7), (7, 9), (33, 257), (64, 64), (257, 33)]


@jax.jit
def unbiased_term(z):
    return covariance_term(z, unbiased=True)


value_and_gradient = jax.jit(jax.value_and_grad(unbiased_term))


def reference(z):
    """Value, gradient, and the sum of the sizes of what is added and subtracted, in float64 from the D x D matrix."""
    z = np.asarray(z, np.float64)
    n, dim = z.shape
    x = z - z.mean(axis=0)
    covariance = x.T @ x / (n - 1)
    variances = np.diag(covariance)
    off_diagonal = covariance - np.diag(variances)
    lengths = np.sum(x**2, axis=1, keepdims=True)
    biased = (n - 1) * (n - 2) * np.sum(off_diagonal**2)
    variance_products = np.sum(variances) ** 2 - np.sum(variances**2)
    fourth_moments = n / (n - 1) * (np.sum(lengths**2) - np.sum(x**4))
    of_fourth_moments = 4 * n / (n - 1) * x * (lengths - x**2)
    of_fourth_moments -= of_fourth_moments.mean(axis=0)  # of the centering; the others have mean zero already
    gradient = 4 * (n - 2) * x @ off_diagonal + 4 * x * (variances.sum() - variances) / (n - 1) - of_fourth_moments
    scale = (n - 1) / (n * (n - 2) * (n - 3)) / dim
    size = biased + variance_products + fourth_moments
    return scale * (biased + variance_products - fourth_moments), scale * gradient, scale * size


def by_distinct_rows(z):
    """The mean over all quadruples of distinct rows of products of two covariances, each the estimate by two rows."""
    k, m, n, o = np.array(list(itertools.permutations(range(len(z)), 4))).T
    first, second = (z[k] - z[m]) / 2**0.5, (z[n] - z[o]) / 2**0.5
    products = first * second
    all_pairs = np.sum(products, axis=1) ** 2
    return np.mean(all_pairs - np.sum(products**2, axis=1)) / z.shape[1]


def samples(shape, scale=1.0, shift=0.0, seed=0):
    return scale * np.random.default_rng(seed).normal(shift, size=shape)


@pytest.mark.parametrize("dim", [3, 6])
@pytest.mark.parametrize("batch", [4, 5])
def test_is_unbiased(batch, dim):
    """The mean over all samples of a population of three points, skewed and correlated, is the population's."""
    population = samples((3, dim), seed=batch) ** 3
    covariance = np.cov(population, rowvar=False, ddof=0)
    expected = (np.sum(covariance**2) - np.sum(np.diag(covariance) ** 2)) / dim
    drawn = np.array(list(itertools.product(population, repeat=batch)))
    assert drawn.shape == (3**batch, batch, dim)
    with jax.enable_x64(True):
        estimates = np.asarray(jax.jit(jax.vmap(unbiased_term))(drawn))
        biased = np.asarray(jax.jit(jax.vmap(covariance_term))(drawn))
    np.testing.assert_allclose(estimates.mean(), expected, rtol=1e-12)
    assert biased.mean() > 1.1 * expected


@pytest.mark.parametrize("shape", [(4, 7), (7, 9), (7, 3)])
def test_is_the_mean_over_distinct_rows(shape):
    """That polynomial's gradient is taken by complex steps, which subtract nothing."""
    z = samples(shape) + samples((*shape[:1], 1), seed=1)
    value = by_distinct_rows(z)
    steps = 1e-30j * np.eye(z.size).reshape(z.size, *shape)
    gradient = np.reshape([by_distinct_rows(z + step).imag for step in steps], shape) / 1e-30
    with jax.enable_x64(True):
        actual, actual_gradient = value_and_gradient(z)
    np.testing.assert_allclose(actual, value, rtol=1e-11)
    np.testing.assert_allclose(actual_gradient, gradient, rtol=0, atol=1e-11 * np.abs(gradient).max())


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-5), (np.float64, 1e-11)])
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(scale=st.floats(0.1, 30), shift=st.floats(-3, 3), seed=st.integers(0, 1000))
def test_value_and_gradient(shape, dtype, rtol, scale, shift, seed):
    z = samples(shape, scale, shift, seed).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        value, gradient = value_and_gradient(z)
    expected, expected_gradient, size = reference(z)
    assert value.dtype == dtype
    np.testing.assert_allclose(value, expected, rtol=0, atol=rtol / 10 * size)  # around 0 by design
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=rtol * np.abs(expected_gradient).max())


@pytest.mark.parametrize("batch", [32, 256])
def test_independent_features_have_none_at_any_batch_size(batch):
    """Where the plain term has (D - 1) / (N - 1)."""
    z = samples((batch, 64)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(covariance_term)(z), 63 / (batch - 1), rtol=0.2)
    np.testing.assert_allclose(unbiased_term(z), 0, atol=6 / batch)  # three standard deviations


def test_in_the_loss():
    z_a, z_b = samples((2, 5, 8)).astype(np.float32)
    plain = jax.jit(vicreg_loss)(z_a, z_b)
    loss = jax.jit(vicreg_loss, static_argnames="unbiased_covariance")(z_a, z_b, unbiased_covariance=True)
    expected = unbiased_term(z_a) + unbiased_term(z_b)
    np.testing.assert_allclose(loss.covariance, expected, atol=1e-6 * plain.covariance)
    np.testing.assert_allclose(loss[1:3], plain[1:3], rtol=1e-6)
    np.testing.assert_allclose(loss.loss - plain.loss, expected - plain.covariance, rtol=1e-4)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
@pytest.mark.parametrize("value", [0.0, 0.3, 1e4])
def test_collapse(shape, value):
    term, gradient = value_and_gradient(np.full(shape, value, np.float32))
    np.testing.assert_allclose(term, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_needs_four_rows():
    z = np.ones((3, 5), np.float32)
    with pytest.raises(ValueError, match=r"z must have a global batch of at least 4 rows.*\(3, 5\)"):
        covariance_term(z, unbiased=True)
    with pytest.raises(ValueError, match=r"z_a must have a global batch of at least 4 rows.*\(3, 5\)"):
        vicreg_loss(z, z, unbiased_covariance=True)

    def of_shard(z):
        return covariance_term(z, unbiased=True, axis_name="data")

    with pytest.raises(ValueError, match=r"4 rows.*\(1, 5\) on each of 3 shards along 'data'"):
        jax.vmap(of_shard, axis_name="data")(z[:, None])
    z = samples((4, 5)).astype(np.float32)
    of_shards = jax.jit(jax.vmap(of_shard, axis_name="data"))(z[:, None])
    expected, _, size = reference(z)
    np.testing.assert_allclose(of_shards, np.full(4, expected), rtol=0, atol=1e-6 * size)


def test_square_of_a_large_batch_is_no_int32():
    z = jax.ShapeDtypeStruct((2**16, 2), np.float32)
    assert jax.eval_shape(partial(covariance_term, unbiased=True), z).dtype == np.float32
