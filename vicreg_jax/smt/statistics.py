"""The two matrices of the transform: how often atoms occur together, and how codes differ within an image."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vicreg_jax.smt.counts import integer_product


def patch_statistics(
    codes: ArrayLike, *, context: int | None = None, grid: tuple[int, int] | None = None
) -> tuple[jax.Array, jax.Array]:
    """The second moment of codes, and that of their differences within an image, as sums.

    `V = sum_i a_i a_i^T` over all patches; `L = sum_{i < j} (a_i - a_j)(a_i - a_j)^T` over the unordered pairs of
    patches of one image that are in each other's context, summed over images. With the whole image of n patches as
    context, `L = n V - sum_images s s^T` where s is the sum of an image's codes: it costs next to nothing beside V.

    Args:
      codes: `[images, patches, atoms]`, real. Booleans are counted exactly, whatever the device.
      context: pairs at most so many rows and so many columns apart; None: all of an image.
      grid: rows and columns that the patches lie in, row by row, for a context; None: a square.

    Returns:
      V and L, `[atoms, atoms]`, in the dtype of the codes: floats stay what they are (16 bits are summed in float32),
      integers too; booleans give int32.

    Raises:
      TypeError: codes that are not real.
      ValueError: another rank, an empty array, a context below 1, a grid that has not as many places as there are
        patches; or booleans of so many images at a time that int32 would overflow.

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
        raise TypeError(f"codes: got dtype {codes.dtype}, takes real codes")
    if codes.ndim != 3 or codes.size == 0:
        raise ValueError(f"codes: got shape {codes.shape}, takes [images, patches, atoms] with at least one of each")
    _, patches, atoms = codes.shape
    rows, columns = _checked_grid(patches, context, grid)
    kept = jnp.dtype(jnp.int32) if codes.dtype == jnp.bool_ else codes.dtype
    counted = codes.dtype == jnp.bool_
    codes = codes.astype(jnp.result_type(kept, jnp.float32) if jnp.issubdtype(kept, jnp.floating) else kept)

    def product(a: jax.Array, b: jax.Array, largest_a: int = 1, largest_b: int = 1) -> jax.Array:
        """The sum over images and patches of outer products; entries of counted codes are at most the largest."""
        a, b = a.reshape(-1, atoms), b.reshape(-1, atoms)
        if counted:
            return integer_product(a, b, largest_a, largest_b)
        return jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST)

    V = product(codes, codes)
    if context is None or context >= max(rows, columns) - 1:
        sums = jnp.sum(codes, axis=1)
        L = patches * V - product(sums, sums, patches, patches)
    else:
        window = 2 * context + 1
        L = product(codes, _from_neighbors(codes, rows, columns, window), 1, window**2)
    return V.astype(kept), L.astype(kept)


def _checked_grid(patches: int, context: int | None, grid: tuple[int, int] | None) -> tuple[int, int]:
    if context is not None and not (isinstance(context, int) and context >= 1):
        raise ValueError(f"context: got {context}, takes an integer of at least 1, or None for the whole image")
    if grid is None:
        side = math.isqrt(patches)
        if context is not None and side**2 != patches:
            raise ValueError(f"grid: got None, takes rows and columns of the {patches} patches, which are no square")
        return side, side
    if not isinstance(grid, tuple) or len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != patches:
        raise ValueError(f"grid: got {grid}, takes rows and columns whose product is the {patches} patches")
    return grid


def _from_neighbors(codes: jax.Array, rows: int, columns: int, window: int) -> jax.Array:
    """Each code times the number of its neighbors, less their sum: the graph's Laplacian applied to the codes."""

    def sum_over_window(values: jax.Array) -> jax.Array:
        zero = jnp.zeros((), values.dtype)
        return jax.lax.reduce_window(values, zero, jax.lax.add, (1, window, window, 1), (1, 1, 1, 1), "SAME")

    on_grid = codes.reshape(len(codes), rows, columns, -1)
    neighbors = sum_over_window(jnp.ones((1, rows, columns, 1), codes.dtype))
    return (neighbors * on_grid - sum_over_window(on_grid)).reshape(codes.shape)
