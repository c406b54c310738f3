"""The two matrices of the transform: second moments of codes, and of their differences within an image."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vicreg_jax.smt.counts import integer_product


def patch_statistics(
    codes: ArrayLike, *, context: int | None = None, grid: tuple[int, int] | None = None
) -> tuple[jax.Array, jax.Array]:
    r"""The second moments of codes, and of their differences within an image, as sums.

    .. math:: V = \sum_i a_i a_i^\top, \qquad L = \sum_{i < j} (a_i - a_j)(a_i - a_j)^\top

    V sums over all patches; L sums over the unordered pairs of patches of the same image that lie within each other's
    context. L is computed without the pairs. If the context is the whole image of n patches, then

    .. math:: L = n V - \sum_{\text{images}} s s^\top, \qquad s = \sum_i a_i

    which costs next to nothing beside V. With a smaller context, where :math:`N(i)` are the neighbors of patch i,

    .. math:: L = \sum_i a_i \Big( \sum_{j \in N(i)} (a_i - a_j) \Big)^\top

    Args:
        codes: `[images, patches, atoms]`, real. Sums of booleans are exact on every device.
        context: the largest distance of a pair, in rows and in columns; None: all pairs of an image.
        grid: rows and columns of the patches, in row-major order; None: a square. Only a context needs it.

    Returns:
        V and L, `[atoms, atoms]`, in the dtype of the codes, int32 for booleans; 16-bit floats are summed in float32.

    Raises:
        TypeError: the codes are complex.
        ValueError: `codes` have another rank or are empty, `context` is below 1, `grid` does not match the number of
            patches, or there are so many boolean codes that int32 sums could overflow.

    Source: Chen et al., Minimalistic unsupervised representation learning with the sparse manifold transform
        (ICLR 2023, arXiv 2209.15261).

    Example:
      >>> codes = jnp.array([[[1.0, 0.0], [1.0, 1.0]]])  # one image, two patches
      >>> V, L = patch_statistics(codes)
      >>> V.tolist(), L.tolist()
      ([[2.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]])
    """
    codes = jnp.asarray(codes)
    if jnp.issubdtype(codes.dtype, jnp.complexfloating):
        raise TypeError(f"codes must be real; got dtype {codes.dtype}")
    if codes.ndim != 3 or codes.size == 0:
        raise ValueError(f"codes must have shape [images, patches, atoms], none of them 0; got shape {codes.shape}")
    images, patches, atoms = codes.shape
    rows, columns = _checked_grid(patches, context, grid)
    window = None if context is None or context >= max(rows, columns) - 1 else 2 * context + 1
    neighbors = patches if window is None else window**2
    is_boolean = codes.dtype == jnp.bool_
    dtype = jnp.dtype(jnp.int32) if is_boolean else codes.dtype
    is_small = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    codes = codes.astype(jnp.float32 if is_small else dtype)
    if is_boolean and images * patches * neighbors >= 2**31:
        raise ValueError(
            f"codes must have at most {(2**31 - 1) // (patches * neighbors)} images of {patches} patches if boolean, "
            f"so that int32 sums do not overflow; got shape {codes.shape}"
        )

    def product(a: jax.Array, b: jax.Array, bound_a: int = 1, bound_b: int = 1) -> jax.Array:
        """Sum of outer products over images and patches; the bounds hold for entries from boolean codes."""
        a, b = a.reshape(-1, atoms), b.reshape(-1, atoms)
        if is_boolean:
            return integer_product(a, b, bound_a, bound_b)
        return jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST)

    V = product(codes, codes)
    if window is None:
        sums = jnp.sum(codes, axis=1, dtype=codes.dtype)
        L = patches * V - product(sums, sums, patches, patches)
    else:
        L = product(codes, _from_neighbors(codes, rows, columns, window), 1, window**2)
    return V.astype(dtype), L.astype(dtype)


def _checked_grid(patches: int, context: int | None, grid: tuple[int, int] | None) -> tuple[int, int]:
    if context is not None and not (isinstance(context, int) and context >= 1):
        raise ValueError(f"context must be an integer of at least 1, or None for the whole image; got {context}")
    if grid is None:
        side = math.isqrt(patches)
        if context is not None and side**2 != patches:
            raise ValueError(f"grid must state rows and columns, for {patches} patches are no square; got None")
        return side, side
    if not isinstance(grid, tuple) or len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != patches:
        raise ValueError(f"grid must be rows and columns whose product is the {patches} patches; got {grid}")
    return grid


def _from_neighbors(codes: jax.Array, rows: int, columns: int, window: int) -> jax.Array:
    """The graph Laplacian applied to the codes: each code times the number of its neighbors, minus their sum."""

    def sum_over_window(values: jax.Array) -> jax.Array:
        zero = np.zeros((), values.dtype)  # not traced: only a sum from a known zero has a gradient
        return jax.lax.reduce_window(values, zero, jax.lax.add, (1, window, window, 1), (1, 1, 1, 1), "SAME")

    on_grid = codes.reshape(len(codes), rows, columns, -1)
    neighbors = sum_over_window(jnp.ones((1, rows, columns, 1), codes.dtype))
    return (neighbors * on_grid - sum_over_window(on_grid)).reshape(codes.shape)
