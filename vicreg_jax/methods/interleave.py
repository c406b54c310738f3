"""Several views as one batch, in an order in which a batch split over devices keeps every row on its device."""

from typing import Any

import jax
import jax.numpy as jnp


def interleave(*views: Any, block: int = 1) -> Any:
    """Alternate the rows of all views: row i * len(views) + v of the result is row i of view v.

    Args:
        views: Arrays of one shape `[batch, ...]`, or pytrees of them.
        block: Alternate in blocks of this many rows instead; divides the batch.

    Returns:
        `[batch * len(views), ...]`.
    """

    def of_arrays(*arrays: jax.Array) -> jax.Array:
        blocks = [array.reshape(-1, block, *array.shape[1:]) for array in arrays]
        return jnp.stack(blocks, axis=1).reshape(-1, *arrays[0].shape[1:])

    return jax.tree.map(of_arrays, *views)


def separate(rows: jax.Array, views: int = 2, *, block: int = 1) -> tuple[jax.Array, ...]:
    """The rows `[batch, dim]` of each view, after `interleave`."""
    blocks = rows.reshape(-1, views, block, rows.shape[-1])
    return tuple(blocks[:, view].reshape(-1, rows.shape[-1]) for view in range(views))
