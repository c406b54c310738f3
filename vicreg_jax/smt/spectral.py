"""The eigenproblem: the linear map of codes whose outputs differ least within an image, at identity covariance."""

import logging
import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

_logger = logging.getLogger(__name__)

# Settings of the iterative solver, for matrices whose mean diagonal entry is 1.
_SHIFT = 0.01
_TOLERANCE = 1e-6
_ROUNDS = 10


def spectral_embedding(V: ArrayLike, L: ArrayLike, *, dim: int, skip: int = 0, ridge: float = 0.0) -> jax.Array:
    r"""Solves the eigenproblem of the transform.

    .. math:: \min_P \operatorname{tr}(P L P^\top) \quad \text{subject to} \quad
        P (V + \text{ridge} \cdot I) P^\top = I

    The rows of P are generalized eigenvectors of :math:`(L, V + \text{ridge} \cdot I)` with increasing eigenvalues,
    after the first `skip`; the trace is the sum of their eigenvalues. Directions in which V is zero up to rounding are
    excluded at any ridge, since no code has them.

    The textbook form is `scipy.linalg.eigh(L, V)`, which requires a positive definite V. Two symmetric problems equal
    it where V is singular: with :math:`V = U \Lambda U^\top` restricted to the directions that exist, and
    :math:`W = U (\Lambda + \text{ridge} \cdot I)^{-1/2}`, the rows of P are the eigenvectors of
    :math:`W^\top L W`, times :math:`W^\top`.

    Args:
        V: symmetric, positive semidefinite `[atoms, atoms]`; see `patch_statistics`.
        L: symmetric, positive semidefinite `[atoms, atoms]`; see `patch_statistics`.
        dim: rows of P.
        skip: number of the smoothest eigenvectors, which are almost constant, to exclude.
        ridge: added to V's diagonal, in the units of V.

    Returns:
        P, `[dim, atoms]`, in the dtype of V and L, at least float32. Each row's largest entry is positive.

    Raises:
        ValueError: `V` and `L` are not square matrices of one shape; `dim` is below 1, or `skip` or `ridge` below 0;
            `skip + dim` exceeds the number of atoms, or V's rank, unless V is traced.

    Source: Chen et al., Minimalistic unsupervised representation learning with the sparse manifold transform
        (ICLR 2023, arXiv 2209.15261).

    Example:
      >>> P = spectral_embedding(4.0 * jnp.eye(3), jnp.diag(jnp.array([3.0, 1.0, 2.0])), dim=2)
      >>> P.tolist()
      [[0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]
    """
    V, L = jnp.asarray(V), jnp.asarray(L)
    check_problem(V, L, dim, skip, ridge)
    dtype = jnp.float64 if any(x.dtype == jnp.float64 for x in (V, L)) else jnp.float32
    V, L = V.astype(dtype), L.astype(dtype)
    variances, directions = jnp.linalg.eigh(V)
    exists = variances > variances[-1] * len(V) * jnp.finfo(dtype).eps
    check_rank(exists, dim, skip)
    to_unit = directions * jnp.where(exists, jax.lax.rsqrt(jnp.where(exists, variances + ridge, 1)), 0)[None]
    whitened = to_unit.T @ L @ to_unit
    # Directions that do not exist get the largest eigenvalue, to come last.
    beyond = 2 * jnp.trace(jnp.abs(whitened)) + 1
    whitened = (whitened + whitened.T) / 2 + jnp.diag(jnp.where(exists, 0, beyond))
    _, vectors = jnp.linalg.eigh(whitened)
    return oriented((to_unit @ vectors[:, skip : skip + dim]).T)


def iterative_spectral_embedding(
    V: np.ndarray, L: np.ndarray, *, dim: int, skip: int = 0, ridge: float = 0.0, seed: int = 0
) -> np.ndarray:
    r"""`spectral_embedding` for many atoms: only the smallest eigenvectors, by LOBPCG, on the host in float64.

    LOBPCG improves a block of vectors until its residuals are small, preconditioned by :math:`(L + 0.01 V)^{-1}`. A
    round takes a few products and solves with `[atoms, atoms]` matrices.

    Args:
        V: see `spectral_embedding`.
        L: see `spectral_embedding`.
        dim: rows of P.
        skip: number of the smoothest eigenvectors to exclude.
        ridge: added to V's diagonal, in the units of V.
        seed: seed of the initial vectors.

    Returns:
        P, float64 `[dim, atoms]`. It is zero for atoms whose diagonal entry in V is zero.

    Raises:
        ValueError: see `spectral_embedding`; or V plus ridge, without those atoms, is not positive definite.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve
    from scipy.sparse.linalg import LinearOperator, lobpcg

    V, L = np.asarray(V, np.float64), np.asarray(L, np.float64)
    check_problem(V, L, dim, skip, ridge)
    active = np.diag(V) > 0
    check_rank(active, dim, skip)
    V, L = V[np.ix_(active, active)], L[np.ix_(active, active)]
    V[np.diag_indices_from(V)] += ridge
    scale = np.trace(V) / len(V)
    V, L = V / scale, L / (np.trace(L) / len(L) or 1.0)  # puts residuals on a known scale
    try:
        pivots = np.diag(cho_factor(V)[0]) ** 2
    except LinAlgError:
        pivots = np.zeros(1)
    if pivots.min() < len(V) * np.finfo(np.float64).eps:
        raise ValueError(f"ridge must be larger, for V is not positive definite; got {ridge}")
    factor = cho_factor(L + _SHIFT * V)
    inverse = LinearOperator(L.shape, matvec=partial(cho_solve, factor), matmat=partial(cho_solve, factor))
    # More vectors than needed, since the last ones of a block converge slowly.
    count = min(len(V), skip + dim + max(8, (skip + dim) // 8))
    vectors = np.random.default_rng(seed).normal(size=(len(V), count))
    for _ in range(_ROUNDS):
        with warnings.catch_warnings():
            # LOBPCG warns if it stops early because vectors become dependent; the next round continues.
            warnings.simplefilter("ignore", UserWarning)
            values, vectors = lobpcg(L, vectors, B=V, M=inverse, tol=_TOLERANCE, maxiter=40, largest=False)
        order = np.argsort(values)[skip : skip + dim]
        chosen = vectors[:, order]
        residuals = np.linalg.norm(L @ chosen - V @ chosen * values[order], axis=0)
        if residuals.max() < _TOLERANCE:
            break
    else:
        _logger.warning("the eigenvectors did not converge: residuals are up to %.1e", residuals.max())
    P = np.zeros((dim, len(active)))
    P[:, active] = chosen.T / np.sqrt(scale)
    return np.asarray(oriented(P))


def check_problem(V: ArrayLike, L: ArrayLike, dim: int, skip: int, ridge: float) -> None:
    """Raises ValueError for arguments of `spectral_embedding` that are not valid."""
    shape = np.shape(V)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"V must have shape [atoms, atoms]; got shape {shape}")
    if np.shape(L) != shape:
        raise ValueError(f"L must have the shape of V, {shape}; got shape {np.shape(L)}")
    for name, value, minimum in (("dim", dim, 1), ("skip", skip, 0), ("ridge", ridge, 0)):
        if not isinstance(value, jax.core.Tracer) and value < minimum:
            raise ValueError(f"{name} must be at least {minimum}; got {value!r}")
    atoms = shape[0]
    if skip + dim > atoms:
        raise ValueError(f"dim must be at most {atoms - skip} with skip={skip}, for there are {atoms} atoms; got {dim}")


def check_rank(exists: jax.Array | np.ndarray, dim: int, skip: int) -> None:
    """Raises ValueError for more dimensions than V's rank; checks nothing if V is traced."""
    if not isinstance(exists, jax.core.Tracer) and (rank := int(np.sum(exists))) < skip + dim:
        raise ValueError(
            f"dim must be at most {max(rank - skip, 0)} with skip={skip}, for V has rank {rank}; got {dim}"
        )


def oriented(P: Any) -> Any:
    """Fixes the arbitrary sign of eigenvectors: the largest entry of each row becomes positive."""
    numpy = np if isinstance(P, np.ndarray) else jnp
    largest = numpy.take_along_axis(P, numpy.argmax(numpy.abs(P), axis=1, keepdims=True), axis=1)
    return P * numpy.where(largest < 0, -1, 1)
