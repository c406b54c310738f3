"""The eigenproblem against SciPy's generalized solver, and the identities that P satisfies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.smt import patch_statistics, spectral_embedding
from vicreg_jax.smt.spectral import iterative_spectral_embedding

ATOMS = 7
CHOICES = [(3, 0), (3, 2), (7, 0), (1, 6)]

compiled = jax.jit(spectral_embedding, static_argnames=("dim", "skip"))


def embedding(V, L, *, dim, skip=0, ridge=0.0):
    """One compilation serves every ridge."""
    return compiled(V, L, dim=dim, skip=skip, ridge=ridge)


def problem(seed=0, images=40, patches=6, atoms=ATOMS, density=0.3):
    """V and L of random codes whose density varies between images."""
    random = np.random.default_rng(seed)
    codes = random.random((images, patches, atoms)) < density * 2 * random.random((images, 1, atoms))
    return statistics_of(codes)


def statistics_of(codes):
    flat, sums = np.float64(codes).reshape(-1, codes.shape[2]), np.float64(codes).sum(axis=1)
    V = flat.T @ flat
    return V, codes.shape[1] * V - sums.T @ sums


def in_float64(function, *arguments, **settings):
    with jax.enable_x64(True):
        found = function(*arguments, **settings)
        assert found.dtype == np.float64
        return np.asarray(found)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(choice=st.sampled_from(CHOICES), ridge=st.sampled_from([0.0, 3.0]), seed=st.integers(0, 1000))
def test_unit_covariance_and_the_smallest_eigenvalues(choice, ridge, seed):
    dim, skip = choice
    V, L = problem(seed)
    P = in_float64(embedding, V, L, dim=dim, skip=skip, ridge=ridge)
    V += ridge * np.eye(ATOMS)
    values, vectors = scipy.linalg.eigh(L, V)
    np.testing.assert_allclose(P @ V @ P.T, np.eye(dim), atol=1e-10)
    np.testing.assert_allclose(P @ L @ P.T, np.diag(values[skip : skip + dim]), atol=1e-10)
    np.testing.assert_allclose(np.trace(P @ L @ P.T), values[skip : skip + dim].sum(), rtol=1e-10)
    # The rows equal SciPy's vectors up to the sign, which makes the largest entry positive.
    np.testing.assert_allclose(np.abs(P @ V @ vectors[:, skip : skip + dim]), np.eye(dim), atol=1e-6)
    assert np.all(P.max(axis=1) == np.abs(P).max(axis=1))


def test_no_feasible_matrix_is_better():
    V, L = problem()
    P = in_float64(embedding, V, L, dim=3)
    minimum = np.trace(P @ L @ P.T)
    root = np.linalg.inv(np.linalg.cholesky(V))
    random = np.random.default_rng(0)
    for size in (1.0, 0.1, 1e-3):  # from far away to close by
        for _ in range(300):
            beside, _ = np.linalg.qr((P @ np.linalg.inv(root)).T + size * random.normal(size=(ATOMS, 3)))
            other = beside.T @ root
            np.testing.assert_allclose(other @ V @ other.T, np.eye(3), atol=1e-10)
            assert np.trace(other @ L @ other.T) >= minimum * (1 - 1e-12)


def test_skipped_eigenvectors_are_excluded():
    V, L = problem()
    P, smoothest = (in_float64(embedding, V, L, dim=dim, skip=skip) for dim, skip in ((3, 2), (3, 0)))
    np.testing.assert_allclose(P @ V @ smoothest[:2].T, 0, atol=1e-10)
    np.testing.assert_allclose(P[0], smoothest[2], atol=1e-10)


def singular_problem():
    """Two atoms are always active together, two never, and one whenever one of two others is: rank 4 of 8."""
    random = np.random.default_rng(0)
    codes = random.random((60, 6, 8)) < 0.6 * random.random((60, 1, 8))
    codes[..., 4] = codes[..., 1]
    codes[..., 2] &= ~codes[..., 3]
    codes[..., 6] = codes[..., 2] | codes[..., 3]
    codes[..., [5, 7]] = False
    return statistics_of(codes)


def test_null_directions_of_v_are_excluded():
    V, L = singular_problem()
    values, basis = np.linalg.eigh(V)
    basis = basis[:, values > 1e-9]
    assert basis.shape == (8, 4)
    eigenvalues = scipy.linalg.eigh(basis.T @ L @ basis, basis.T @ V @ basis, eigvals_only=True)
    for dim, skip in ((4, 0), (1, 3)):
        P = in_float64(embedding, V, L, dim=dim, skip=skip)
        np.testing.assert_allclose(P @ V @ P.T, np.eye(dim), atol=1e-10)
        np.testing.assert_allclose(P @ L @ P.T, np.diag(eigenvalues[skip : skip + dim]), atol=1e-10)
        np.testing.assert_allclose(P[:, [5, 7]], 0, atol=1e-12)
        np.testing.assert_allclose(P[:, 4], P[:, 1], atol=1e-12)


@pytest.mark.parametrize(("dim", "skip", "maximum"), [(5, 0, 4), (3, 2, 2), (1, 4, 0), (1, 6, 0)])
def test_more_dimensions_than_the_rank(dim, skip, maximum):
    V, L = singular_problem()
    with (
        jax.enable_x64(True),
        pytest.raises(
            ValueError, match=rf"^dim must be at most {maximum} with skip={skip}, for V has rank 4; got {dim}$"
        ),
    ):
        spectral_embedding(V, L, dim=dim, skip=skip)


def test_zero_matrices():
    with pytest.raises(ValueError, match=r"^dim must be at most 0 .*rank 0"):
        spectral_embedding(np.zeros((3, 3)), np.zeros((3, 3)), dim=1)


@pytest.mark.parametrize("ridge", [0.5, 20.0])
def test_null_directions_are_excluded_at_any_ridge(ridge):
    """They would be the smoothest of all: L is zero there, and V plus ridge is not."""
    V, L = singular_problem()
    values, basis = np.linalg.eigh(V)
    basis = basis[:, values > 1e-9]
    eigenvalues = scipy.linalg.eigh(basis.T @ L @ basis, basis.T @ V @ basis + ridge * np.eye(4), eigvals_only=True)
    P = in_float64(embedding, V, L, dim=3, skip=1, ridge=ridge)
    np.testing.assert_allclose(P @ (V + ridge * np.eye(8)) @ P.T, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(P @ L @ P.T, np.diag(eigenvalues[1:]), atol=1e-10)
    np.testing.assert_allclose(P @ (np.eye(8) - basis @ basis.T), 0, atol=1e-10)
    with jax.enable_x64(True), pytest.raises(ValueError, match=r"^dim must be at most 4 .*rank 4; got 5"):
        spectral_embedding(V, L, dim=5, ridge=ridge)


def test_ridge_may_be_traced():
    V, L = problem()
    with jax.enable_x64(True):
        P = jax.jit(lambda V, L: spectral_embedding(V, L, dim=3, ridge=0.01 * jnp.trace(V)))(V, L)
        np.testing.assert_allclose(P, embedding(V, L, dim=3, ridge=0.01 * np.trace(V)), atol=1e-12)


def test_constant_codes_within_images():
    """L is zero, so that all directions are equally smooth; V still becomes the identity."""
    V, _ = problem()
    P = in_float64(embedding, V, np.zeros_like(V), dim=3)
    np.testing.assert_allclose(P @ V @ P.T, np.eye(3), atol=1e-10)


def test_float32_and_integers():
    V, L = problem()
    expected = in_float64(embedding, V, L, dim=3)
    for dtype in (np.float32, np.int32, jnp.bfloat16):
        P = embedding(jnp.asarray(V, dtype), jnp.asarray(L, dtype), dim=3)
        assert P.dtype == np.float32
        if dtype != jnp.bfloat16:
            np.testing.assert_allclose(P, expected, atol=1e-3 * np.abs(expected).max())
            np.testing.assert_allclose(P @ V @ P.T, np.eye(3), atol=1e-3)


def test_solves_the_problem_of_patch_statistics():
    codes = np.random.default_rng(0).random((30, 9, 5)) < 0.4
    for context in (None, 1):
        statistics = jax.jit(patch_statistics, static_argnames="context")
        V, L = (np.float64(matrix) for matrix in statistics(codes, context=context))
        P = in_float64(embedding, V, L, dim=2)
        values = scipy.linalg.eigh(L, V, eigvals_only=True)
        np.testing.assert_allclose(np.diag(P @ L @ P.T), values[:2], rtol=1e-10)


REJECTED = [
    ("V", (3, 4), (3, 4), {"dim": 1}),
    ("L", (3, 3), (4, 4), {"dim": 1}),
    ("V", (3,), (3,), {"dim": 1}),
    ("dim", (3, 3), (3, 3), {"dim": 0}),
    ("dim", (3, 3), (3, 3), {"dim": 4}),
    ("dim", (3, 3), (3, 3), {"dim": 2, "skip": 2}),
    ("skip", (3, 3), (3, 3), {"dim": 1, "skip": -1}),
    ("ridge", (3, 3), (3, 3), {"dim": 1, "ridge": -0.1}),
]


@pytest.mark.parametrize(("name", "of_V", "of_L", "settings"), REJECTED)
@pytest.mark.parametrize("function", [spectral_embedding, iterative_spectral_embedding])
def test_rejected_arguments(function, name, of_V, of_L, settings):
    with pytest.raises(ValueError, match=rf"^{name} must .*; got "):
        function(np.ones(of_V), np.ones(of_L), **settings)


@pytest.fixture(scope="module")
def larger():
    """V and L of 160 atoms, one of them never active, with well-separated eigenvalues."""
    random = np.random.default_rng(0)
    topics = random.random((12, 160)) < 0.2
    topics[np.arange(160) % 12, np.arange(160)] = True
    codes = random.random((2000, 4, 160)) < 0.1 * (random.random((2000, 12)) @ topics)[:, None]
    codes[..., 17] = False
    return statistics_of(codes)


@pytest.mark.parametrize(("dim", "skip", "ridge"), [(15, 0, 0.0), (9, 4, 50.0)])
def test_the_iterative_solver_agrees(larger, dim, skip, ridge):
    V, L = larger
    P = iterative_spectral_embedding(V, L, dim=dim, skip=skip, ridge=ridge)
    assert P.shape == (dim, 160)
    assert P.dtype == np.float64
    np.testing.assert_array_equal(P[:, 17], 0)
    exact = in_float64(embedding, V, L, dim=dim, skip=skip, ridge=ridge)
    V = V + ridge * np.eye(160)
    np.testing.assert_allclose(P @ V @ P.T, np.eye(dim), atol=1e-10)
    np.testing.assert_allclose(np.diag(P @ L @ P.T), np.diag(exact @ L @ exact.T), rtol=1e-8)
    np.testing.assert_allclose(P @ V @ exact.T, np.eye(dim), atol=1e-3)


def test_the_iterative_solver_counts_active_atoms(larger):
    with pytest.raises(ValueError, match=r"^dim must be at most 159 with skip=0.*; got 160$"):
        iterative_spectral_embedding(*larger, dim=160)


@pytest.mark.parametrize("kind", ["equal", "sum"])
def test_iterative_solver_requires_a_ridge_for_a_singular_v(kind):
    random = np.random.default_rng(0)
    codes = np.float64(random.random((300, 10, 40)) < 0.2)
    codes[..., 7] = codes[..., 3] + (codes[..., 5] if kind == "sum" else 0)
    V, L = statistics_of(codes)
    with pytest.raises(ValueError, match=r"^ridge must be larger, .*; got 0\.0$"):
        iterative_spectral_embedding(V, L, dim=5)
    P = iterative_spectral_embedding(V, L, dim=5, ridge=1.0)
    np.testing.assert_allclose(P @ (V + np.eye(40)) @ P.T, np.eye(5), atol=1e-10)
