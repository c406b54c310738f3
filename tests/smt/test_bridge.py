"""SMT and VICReg: one objective, on the same codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks.experiments import smt_and_vicreg as bridge
from vicreg_jax.losses import covariance_term, invariance_term, variance_term
from vicreg_jax.smt import fit, patch_statistics, spectral_embedding
from vicreg_jax.smt.transform import block_codes

DIM = 6

embedding = jax.jit(spectral_embedding, static_argnames=("dim", "skip"))


def random_codes(kind, images=30, patches=7, atoms=12):
    """Codes that are similar within an image."""
    generator = np.random.default_rng(0)
    cosines = generator.normal(size=(images, 1, atoms)) + generator.normal(size=(images, patches, atoms))
    if kind == "one-sparse":
        return (cosines == cosines.max(axis=2, keepdims=True)).astype(float)
    return (cosines > 1).astype(float)


def projected(codes, skip, centered=False):
    """The transform of codes: P, the embeddings at unit variance `[images, patches, DIM]`, and L."""
    flat = codes.reshape(-1, codes.shape[2])
    V, L = patch_statistics(codes)
    mean = flat.mean(axis=0)
    P = embedding(V - centered * len(flat) * np.outer(mean, mean), L, dim=DIM, skip=skip)
    return P, np.sqrt(len(flat) - 1) * codes @ P.T, L


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("kind", "skip", "centered"),
    [
        pytest.param("one-sparse", 1, False, marks=pytest.mark.slow),
        pytest.param("one-sparse", 0, True, marks=pytest.mark.slow),
        ("threshold", 0, True),
    ],
)
def test_constraint_is_variance_and_covariance(kind, skip, centered):
    _, z, _ = projected(random_codes(kind), skip, centered)
    z = z.reshape(-1, DIM)
    # No standard deviation is below 1, and their mean distance to 2 is 1, so that all are 1.
    assert abs(variance_term(z, epsilon=0)) < 1e-10
    assert abs(variance_term(z, target_std=2, epsilon=0) - 1) < 1e-10
    assert variance_term(z) == 0
    assert covariance_term(z) < 1e-10


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("kind", "skip", "centered"), [("one-sparse", 1, False), ("threshold", 0, True)])
def test_objective_is_invariance(kind, skip, centered):
    P, z, L = projected(random_codes(kind), skip, centered)
    images, patches, _ = z.shape
    first, second = np.triu_indices(patches, 1)
    measured = invariance_term(z[:, first].reshape(-1, DIM), z[:, second].reshape(-1, DIM))
    count = images * patches
    assert abs(measured - 2 * (count - 1) / (count * (patches - 1) * DIM) * jnp.trace(P @ L @ P.T)) < 1e-10
    assert abs(measured - bridge.invariance(np.asarray(z)).mean()) < 1e-10


@pytest.mark.usefixtures("float64")
def test_means_that_the_uncentered_constraint_leaves():
    codes = random_codes("threshold")
    P, _, _ = projected(codes, skip=1)
    flat = codes.reshape(-1, codes.shape[2])
    z = np.sqrt(len(flat)) * flat @ P.T
    mean = z.mean(axis=0)
    assert np.abs(mean).max() > 1e-3
    np.testing.assert_allclose(np.cov(z.T, bias=True), np.eye(DIM) - np.outer(mean, mean), atol=1e-10)


@pytest.fixture(scope="module")
def digits():
    codes = bridge.digit_codes()
    return codes, bridge.closed_form(codes, bridge.DIM)


def descended(digits, weights):
    codes, exact = digits
    P = bridge.descend(codes, jax.random.key(0), jnp.array(weights, jnp.float32), steps=1000)
    return bridge.compare(np.asarray(P), codes, exact)


@pytest.mark.slow
def test_gradient_descent_reaches_the_closed_form(digits):
    codes, exact = digits
    found = descended(digits, (1, 4, 1))
    assert found["overlap"] > 0.98
    assert 1 <= found["invariance_at_constraint"] < 1.005
    # What soft terms leave is known too.
    expected = bridge.expected_spectrum(bridge.invariance(codes @ exact.T), (1, 4, 1))
    np.testing.assert_allclose(found["spectrum"], expected, atol=0.02)
    assert expected.max() - expected.min() > 0.08


@pytest.mark.slow
@pytest.mark.parametrize(
    "weights", [(0, 4, 1), *(pytest.param(weights, marks=pytest.mark.slow) for weights in [(1, 4, 0), (25, 25, 1)])]
)
def test_gradient_descent_on_another_objective_does_not(digits, weights):
    found = descended(digits, weights)
    assert found["overlap"] < 0.7
    assert found["invariance_at_constraint"] > 1.03


@pytest.mark.slow
def test_eigenvalues_of_a_fit_are_invariances():
    images = np.float32(load_digits().images[:400, ..., None] / 16)
    pooling = {"pool_window": 4, "pool_stride": 1, "pool_cells": 1}
    smt = fit(images, key=jax.random.key(0), patch_size=5, atoms=64, code="nearest", embedding_dim=8, skip=1, **pooling)
    codes = block_codes(jnp.asarray(images), smt.whitening, smt.dictionary, smt.options)
    z = np.sqrt(codes[..., 0].size - 1) * np.float32(codes) @ smt.projection.T
    assert variance_term(z.reshape(-1, 8), target_std=2, epsilon=0) == pytest.approx(1, abs=1e-5)
    assert covariance_term(z.reshape(-1, 8)) < 1e-10
    count, patches = codes[..., 0].size, codes.shape[1]
    expected = smt.eigenvalues * 2 * (count - 1) / (count * (patches - 1))
    np.testing.assert_allclose(bridge.invariance(np.asarray(z)), expected, rtol=1e-5)
