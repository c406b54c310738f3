"""Products of the Gram forms, and the few large dimensions that are kept out of their subtraction."""

from functools import partial

import jax.numpy as jnp
from jax import Array, lax

from vicreg_jax.losses.global_batch import replicated_sharding

# The default precision (bfloat16 on TPU, TF32 on GPU) is too low: the Gram form subtracts large sums.
einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)

MAX_LARGE = 4  # dimensions that are kept out of the subtraction


def largest(diagonal: Array) -> Array:
    """Find the `MAX_LARGE` largest entries of `[dim]`, as positions `[MAX_LARGE]`."""
    return lax.top_k(diagonal, min(MAX_LARGE, diagonal.shape[0]))[1]


def split(x: Array, positions: Array) -> tuple[Array, Array]:
    """Split columns: `[batch, dim]` -> the large ones `[batch, MAX_LARGE]`, and `[batch, dim]` with zeros for them."""
    is_large = jnp.any(positions[:, None] == jnp.arange(x.shape[1], dtype=positions.dtype)[None], axis=0)
    return x[:, positions], jnp.where(is_large[None], 0, x)


def merge(large: Array, rest: Array, positions: Array) -> Array:
    """Put the large columns in their places, the inverse of `split`."""
    return rest.at[:, positions].set(large)


def thin_product(x: Array, y: Array) -> Array:
    """Compute `x y^T` for a few columns, `[n, k]` and `[m, k]` -> `[n, m]`, in the same pass as what uses it."""
    columns = (x[:, k, None] * y[None, :, k] for k in range(x.shape[1]))
    return sum(columns, start=jnp.zeros((), x.dtype))


def inner_products(x: Array, y: Array) -> Array:
    """Compute `x^T y` over this shard's rows: `[batch, d]` and `[batch, e]` -> `[d, e]`."""
    return einsum("nd,ne->de", x, y, out_sharding=replicated_sharding(x))


def without_diagonal(matrix: Array) -> Array:
    """Set the diagonal to zero."""
    return jnp.where(jnp.eye(matrix.shape[0], dtype=bool), 0, matrix)
