"""The eigenproblem: the linear map of codes whose outputs differ least within an image, at unit covariance."""

import logging
import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

_logger = logging.getLogger(__name__)

# Of the iterative solver, for matrices whose mean diagonal entry is 1.
_SHIFT = 0.01
_TOLERANCE = 1e-6
_ROUNDS = 10


def spectral_embedding(V: ArrayLike, L: ArrayLike, *, dim: int, skip: int = 0, ridge: float = 0.0) -> jax.Array:
    """Minimizes `tr(P L P^T)` subject to `P (V + ridge I) P^T = I`.

    The rows of P are generalized eigenvectors of (L, V) by rising eigenvalue, after the first `skip`; the trace is the
    sum of their eigenvalues. Directions in which V is zero up to rounding are left out, whatever the ridge: no code has
    them.

    Args:
      V: symmetric, positive semidefinite `[atoms, atoms]`; see `patch_statistics`.
      L: the same.
      dim: rows of P.
      skip: eigenvectors left out at the smooth end, where they are about constant.
      ridge: added to V's diagonal, in its units; 0: nothing is.

    Returns:
      P `[dim, atoms]`, in the dtype of V and L, at least float32. Each row's largest entry is positive.

    Raises:
      ValueError: matrices that are not square and of one shape; a dim below 1, a skip or ridge below 0; or
        `skip + dim` above the atoms, or (where V's values are known, not traced) above V's rank.

    Source: as `patch_statistics`.

    Example:
      >>> P = spectral_embedding(4.0 * jnp.eye(3), jnp.diag(jnp.array([3.0, 1.0, 2.0])), dim=2)
      >>> P.tolist()
      [[0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]
    """
    V, L = jnp.asarray(V), jnp.asarray(L)
    check_problem(V, L, dim, skip, ridge)
    dtype = jnp.result_type(V, L, jnp.float32)
    V, L = V.astype(dtype), L.astype(dtype)
    variances, directions = jnp.linalg.eigh(V)
    exists = variances > variances[-1] * len(V) * jnp.finfo(dtype).eps
    check_rank(exists, dim, skip)
    to_unit = directions * jnp.where(exists, jax.lax.rsqrt(jnp.where(exists, variances + ridge, 1)), 0)
    whitened = to_unit.T @ L @ to_unit
    # What does not exist comes last.
    beyond = 2 * jnp.trace(jnp.abs(whitened)) + 1
    whitened = (whitened + whitened.T) / 2 + jnp.diag(jnp.where(exists, 0, beyond))
    _, vectors = jnp.linalg.eigh(whitened)
    return oriented((to_unit @ vectors[:, skip : skip + dim]).T)


def iterative_spectral_embedding(
    V: np.ndarray, L: np.ndarray, *, dim: int, skip: int = 0, ridge: float = 0.0, seed: int = 0
) -> np.ndarray:
    """`spectral_embedding` for more atoms than a whole eigendecomposition is for: the smallest part alone, by LOBPCG.

    A block of vectors is improved until its residuals are small, preconditioned by the inverse of L, slightly shifted:
    a few products and solves with `[atoms, atoms]` matrices for each round. On the host, in float64.

    Args:
      V, L, dim, skip, ridge: as for `spectral_embedding`.
      seed: of the vectors that the search begins with.

    Returns:
      P float64 `[dim, atoms]`. Atoms whose diagonal entry of V is zero have no part in it.

    Raises:
      ValueError: as `spectral_embedding`; or V, without those atoms and with the ridge, is not positive definite.
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
    V, L = V / scale, L / (np.trace(L) / len(L) or 1.0)  # so that residuals have a size that is known
    try:
        pivots = np.diag(cho_factor(V)[0]) ** 2
    except LinAlgError:
        pivots = np.zeros(1)
    if pivots.min() < len(V) * np.finfo(np.float64).eps:
        raise ValueError(f"ridge: got {ridge}, takes a larger one: V is not positive definite")
    factor = cho_factor(L + _SHIFT * V)
    inverse = LinearOperator(L.shape, matvec=partial(cho_solve, factor), matmat=partial(cho_solve, factor))
    # More vectors than are asked for: the last of a block converge slowly.
    count = min(len(V), skip + dim + max(8, (skip + dim) // 8))
    vectors = np.random.default_rng(seed).normal(size=(len(V), count))
    for _ in range(_ROUNDS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it ends early where vectors come too close; then again
            values, vectors = lobpcg(L, vectors, B=V, M=inverse, tol=_TOLERANCE, maxiter=40, largest=False)
        order = np.argsort(values)[skip : skip + dim]
        chosen = vectors[:, order]
        residuals = np.linalg.norm(L @ chosen - V @ chosen * values[order], axis=0)
        if residuals.max() < _TOLERANCE:
            break
    else:
        _logger.warning("the eigenvectors are not exact: their residuals are up to %.1e", residuals.max())
    P = np.zeros((dim, len(active)))
    P[:, active] = chosen.T / np.sqrt(scale)
    return np.asarray(oriented(P))


def check_problem(V: ArrayLike, L: ArrayLike, dim: int, skip: int, ridge: float) -> None:
    """Refuses what is no eigenproblem; see `spectral_embedding`."""
    shapes = np.shape(V), np.shape(L)
    if len(shapes[0]) != 2 or shapes[0][0] != shapes[0][1] or shapes[0] != shapes[1]:
        raise ValueError(f"V, L: got shapes {shapes[0]} and {shapes[1]}, take [atoms, atoms] for both")
    for name, value, least in (("dim", dim, 1), ("skip", skip, 0), ("ridge", ridge, 0)):
        if not isinstance(value, jax.core.Tracer) and value < least:
            raise ValueError(f"{name}: got {value!r}, takes at least {least}")
    if skip + dim > shapes[0][0]:
        raise ValueError(
            f"dim: got {dim} after the first {skip}, takes at most {shapes[0][0] - skip} for {shapes[0][0]} atoms"
        )


def check_rank(exists: jax.Array | np.ndarray, dim: int, skip: int) -> None:
    """Refuses more dimensions than V has; nothing where its values are traced."""
    if not isinstance(exists, jax.core.Tracer) and (rank := int(np.sum(exists))) < skip + dim:
        raise ValueError(
            f"dim: got {dim} after the first {skip}, takes at most {max(rank - skip, 0)}: V has rank {rank}"
        )


def oriented(P: Any) -> Any:
    """Rows with the sign that makes their largest entry positive: an eigenvector has none of its own."""
    numpy = np if isinstance(P, np.ndarray) else jnp
    largest = numpy.take_along_axis(P, numpy.argmax(numpy.abs(P), axis=1, keepdims=True), axis=1)
    return P * numpy.where(largest < 0, -1, 1)
