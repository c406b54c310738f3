"""What every loss asks of its arguments, with errors that name the argument."""

from collections.abc import Hashable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vicreg_jax.losses.mapped_axis import axis_size


def as_embeddings(**arguments: ArrayLike) -> list[Array]:
    """Check arrays of one shape `[batch, dim]` and raise 16-bit ones to float32.

    Args:
        **arguments: the arrays under the names that the caller's user knows them by.

    Returns:
        The arrays in the order given, float32 or wider.

    Raises:
        TypeError: if a dtype is not real floating-point.
        ValueError: if a shape is not `[batch, dim]`, has no elements or differs from the first argument's.
    """
    first_name, first_shape = "", None
    embeddings = []
    for name, argument in arguments.items():
        z = jnp.asarray(argument)
        if not jnp.issubdtype(z.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating-point embeddings; got dtype {z.dtype}")
        if z.ndim != 2:
            raise ValueError(f"{name} must have the shape [batch, dim]; got shape {z.shape}")
        if z.size == 0:
            raise ValueError(f"{name} must have at least one row and one column; got shape {z.shape}")
        if first_shape is None:
            first_name, first_shape = name, z.shape
        elif z.shape != first_shape:
            raise ValueError(f"{name} must have the shape of {first_name}, {first_shape}; got shape {z.shape}")
        # 16 bits hold the embeddings, but not the sums over batch and dim that follow.
        embeddings.append(z if jnp.finfo(z.dtype).bits >= 32 else z.astype(jnp.float32))
    return embeddings


def check_batch_statistics(name: str, z: Array, axis_name: Hashable | None) -> None:
    """Raise ValueError where the global batch has a single row, which has no variance."""
    shards = axis_size(axis_name)
    if z.shape[0] * shards < 2:
        where = "" if axis_name is None else f" on each of {shards} shards along {axis_name!r}"
        raise ValueError(f"{name} must have a global batch of at least 2 rows; got shape {z.shape}{where}")
