"""Whitening against its definition; codes do not depend on the choice of the root."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.smt.code import threshold_code
from vicreg_jax.smt.whitening import whiten, whitening_matrix


def second_moment(rank, dim=12, seed=0, patches=200):
    random = np.random.default_rng(seed)
    drawn = random.normal(size=(patches, rank)) @ (random.normal(size=(rank, dim)) * 0.1)
    return drawn.T @ drawn / patches, drawn


@pytest.mark.parametrize("rank", [12, 5])
@pytest.mark.parametrize("ridge", [1e-3, 1e-2])
def test_is_the_symmetric_inverse_root(rank, ridge):
    """Second moments may be singular, as those of centered patches are."""
    moment, _ = second_moment(rank)
    found = whitening_matrix(moment, ridge)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, found.T)
    found = np.float64(found)
    np.testing.assert_allclose(found @ (moment + ridge * np.eye(12)) @ found, np.eye(12), atol=2e-5)


def test_whitened_directions_have_the_same_second_moment():
    moment, drawn = second_moment(12)
    whitened = drawn @ np.float64(whitening_matrix(moment, 1e-9))
    np.testing.assert_allclose(whitened.T @ whitened / len(drawn), np.eye(12), atol=1e-4)


def test_negative_eigenvalues_count_as_zero():
    moment = np.diag([1.0, -1e-18, -1e-6])
    np.testing.assert_allclose(np.diag(whitening_matrix(moment, 1e-4)), [1.0001**-0.5, 100, 100], rtol=1e-6)


def test_unit_norm_and_zeros():
    patches = np.random.default_rng(0).normal(size=(2, 5, 12)).astype(np.float32)
    patches[1, 3] = 0
    patches[0, 0] *= 1e-6
    matrix = whitening_matrix(second_moment(12)[0], 1e-3)
    found = np.asarray(whiten(patches, matrix))
    expected = np.float64(patches) @ np.float64(matrix)
    expected /= np.maximum(np.linalg.norm(expected, axis=-1, keepdims=True), 1e-300)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[1, 3], 0)


def test_pca_and_zca_give_the_same_codes():
    """In float64, cosines differ by rounding alone, and none is that close to the threshold."""
    moment, drawn = second_moment(12, patches=300)
    values, vectors = np.linalg.eigh(moment)
    pca = vectors * (values + 1e-3) ** -0.5
    zca = pca @ vectors.T
    np.testing.assert_allclose(whitening_matrix(moment, 1e-3), zca, rtol=1e-5, atol=1e-5)
    with jax.enable_x64(True):
        by_pca, by_zca = (whiten(jnp.asarray(drawn), jnp.asarray(matrix)) for matrix in (pca, zca))
        atoms = slice(0, 40)
        np.testing.assert_allclose(by_pca @ by_pca[atoms].T, by_zca @ by_zca[atoms].T, atol=1e-13)
        codes = [np.asarray(threshold_code(whitened, whitened[atoms], 0.3)) for whitened in (by_pca, by_zca)]
    np.testing.assert_array_equal(*codes)
    assert 0.02 < codes[0].mean() < 0.5
