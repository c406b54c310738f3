import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.evaluation.diagnostics import (
    RANK_FLOOR,
    STD_FLOOR,
    collapse_metrics,
    collapse_monitor,
    collapse_warning,
    effective_rank,
    embedding_std,
    gram_matrix,
    rank_of_spectrum,
    spectrum,
    spectrum_on_host,
)


def embeddings(batch, dim, decay, seed=0):
    """Gaussian rows with standard deviations exp(-decay * dimension), rotated and shifted."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return (rng.normal(size=(batch, dim)) * np.exp(-decay * np.arange(dim))) @ rotation + 3.0


def reference_rank(z):
    s = np.linalg.svd(z - z.mean(0), compute_uv=False)
    p = s / s.sum()
    p = p[p > 1e-12]
    return np.exp(-np.sum(p * np.log(p)))


SHAPES = [(64, 24), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in [(24, 64), (2, 5)])]


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_spectrum_and_rank_equal_the_singular_values_in_float64(batch, dim):
    z = embeddings(batch, dim, 0.05)
    expected = np.linalg.svd(z - z.mean(0), compute_uv=False) ** 2 / (batch - 1)
    actual = spectrum(jnp.asarray(z, jnp.float32))
    assert actual.shape == (min(batch, dim),)
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-6 * expected[0])
    np.testing.assert_allclose(effective_rank(jnp.asarray(z, jnp.float32)), reference_rank(z), rtol=2e-3)
    np.testing.assert_allclose(np.sum(actual), z.var(0, ddof=1).sum(), rtol=1e-4)


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_embedding_std(batch, dim):
    z = embeddings(batch, dim, 0.1)
    np.testing.assert_allclose(embedding_std(jnp.asarray(z, jnp.float32)), z.std(0, ddof=1).mean(), rtol=1e-5)


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_host_computes_the_same(batch, dim):
    z = embeddings(batch, dim, 0.05)
    on_device = jnp.asarray(z, jnp.float32)
    eigenvalues = spectrum_on_host(np.asarray(gram_matrix(on_device)))
    assert isinstance(eigenvalues, np.ndarray)
    np.testing.assert_allclose(eigenvalues, spectrum(on_device), rtol=1e-3, atol=2e-6 * eigenvalues[0])
    metrics = collapse_metrics(jax.device_get(jax.jit(collapse_monitor)(on_device)))
    np.testing.assert_allclose(metrics["effective_rank"], reference_rank(z), rtol=2e-3)
    np.testing.assert_allclose(metrics["embedding_std"], z.std(0, ddof=1).mean(), rtol=1e-5)


def test_embeddings_that_are_not_finite_have_no_rank():
    monitored = jax.device_get(jax.jit(collapse_monitor)(jnp.full((8, 4), jnp.nan)))
    assert np.isnan(collapse_metrics(monitored)["effective_rank"])


def test_a_steep_spectrum_survives_rounding():
    z = embeddings(256, 128, 0.3)  # singular values over sixteen orders of magnitude
    np.testing.assert_allclose(effective_rank(jnp.asarray(z, jnp.float32)), reference_rank(z), rtol=1e-2)


def test_known_ranks():
    rank = jax.jit(effective_rank)
    on_a_line = np.outer(np.linspace(-1, 1, 32, dtype=np.float32), np.arange(1, 33, dtype=np.float32)) + 7
    np.testing.assert_allclose(rank(on_a_line), 1.0, atol=1e-3)
    constant = np.full((32, 32), 0.25, np.float32)
    assert rank(constant) == 1.0
    assert jax.jit(embedding_std)(constant) == 0.0
    # One row per dimension: the 31 directions that remain after centering have equal variance.
    np.testing.assert_allclose(rank(np.eye(32, dtype=np.float32)), 31.0, rtol=1e-3)
    np.testing.assert_allclose(rank_of_spectrum(jnp.array([1.0, 0.0])), 1.0)


def test_16_bit_embeddings_are_computed_in_float32():
    z = jnp.asarray(embeddings(32, 16, 0.1), jnp.bfloat16)
    for monitor in (embedding_std, effective_rank, spectrum):
        result = jax.jit(monitor)(z)
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, monitor(z.astype(jnp.float32)), rtol=1e-4, atol=1e-5)


def test_warnings():
    healthy = {"dim": 512, "batch_size": 256}
    assert collapse_warning(1.0, 100.0, **healthy) is None
    assert collapse_warning(STD_FLOOR, 1 + RANK_FLOOR * 254, **healthy) is None
    assert "collapsed" in collapse_warning(0.99 * STD_FLOOR, 100.0, **healthy)
    assert "only a few dimensions" in collapse_warning(1.0, 0.99 * (1 + RANK_FLOOR * 254), **healthy)
    assert "not finite" in collapse_warning(float("nan"), 100.0, **healthy)
    # Embeddings of unit length have a healthy standard deviation of 1 / sqrt(dim).
    assert collapse_warning(0.044, 100.0, **healthy) is not None
    assert collapse_warning(0.044, 100.0, target_std=512**-0.5, **healthy) is None
    # The text does not change with the numbers.
    assert collapse_warning(0.01, 1.0, **healthy) == collapse_warning(0.02, 2.0, **healthy)
