"""What every loss asks of its arguments, with errors that name the argument."""

from collections.abc import Hashable
from numbers import Integral

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from vicreg_jax.losses.mapped_axis import axis_size, global_batch


def as_embeddings(**arguments: ArrayLike) -> list[Array]:
    """Check arrays of one shape `[batch, dim]` and give them one dtype, 16-bit ones raised to float32.

    Args:
        **arguments: the arrays under the names that the caller's user knows them by.

    Returns:
        The arrays in the order given, all in float32, or in float64 where one of them is.

    Raises:
        TypeError: if a dtype is not real floating-point.
        ValueError: if a shape is not `[batch, dim]`, has no elements or differs from the first argument's.
    """
    embeddings = {name: jnp.asarray(argument) for name, argument in arguments.items()}
    first_name, first = next(iter(embeddings.items()))
    for name, z in embeddings.items():
        if not jnp.issubdtype(z.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating-point embeddings; got dtype {z.dtype}")
        if z.ndim != 2:
            raise ValueError(f"{name} must have the shape [batch, dim]; got shape {z.shape}")
        if z.size == 0:
            raise ValueError(f"{name} must have at least one row and one column; got shape {z.shape}")
        if z.shape != first.shape:
            raise ValueError(f"{name} must have the shape of {first_name}, {first.shape}; got shape {z.shape}")
    # 16 bits hold the embeddings, but not the sums over batch and dim that follow.
    dtype = jnp.result_type(jnp.float32, *embeddings.values())
    return [z.astype(dtype) for z in embeddings.values()]


def check_global_batch(name: str, z: Array, axis_name: Hashable | None, *, least: int = 2) -> None:
    """Raise ValueError where the global batch has too few rows: a single one has no variance."""
    if global_batch(z, axis_name) < least:
        where = "" if axis_name is None else f" on each of {axis_size(axis_name)} shards along {axis_name!r}"
        raise ValueError(f"{name} must have a global batch of at least {least} rows; got shape {z.shape}{where}")


def as_scalars(dtype: DTypeLike, **settings: ArrayLike) -> list[Array]:
    """Give weights, temperatures and the like the dtype of the embeddings, so that a loss keeps it.

    Args:
        dtype: of the embeddings.
        **settings: the numbers, traced or not, under the names that the caller's user knows them by.

    Returns:
        Scalars in the order given.

    Raises:
        TypeError: if one is not a real number.
        ValueError: if one is not a scalar.
    """
    scalars = []
    for name, setting in settings.items():
        try:
            scalar = jnp.asarray(setting)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be a number; got {setting!r}") from error
        if not jnp.issubdtype(scalar.dtype, jnp.floating) and not jnp.issubdtype(scalar.dtype, jnp.integer):
            raise TypeError(f"{name} must be a number; got dtype {scalar.dtype}")
        if scalar.ndim:
            raise ValueError(f"{name} must be a scalar; got shape {scalar.shape}")
        scalars.append(scalar.astype(dtype))
    return scalars


def as_temperature(dtype: DTypeLike, temperature: ArrayLike) -> Array:
    """Check a temperature and give it the dtype of the embeddings; ValueError for a number that is not above 0."""
    (scalar,) = as_scalars(dtype, temperature=temperature)
    if is_known(temperature) and not np.asarray(temperature) > 0:
        raise ValueError(f"temperature must be above 0; got {temperature}")
    return scalar


def check_block_size(block_size: int | None) -> None:
    """Raise ValueError unless `block_size` is None or an integer of at least 1."""
    if block_size is not None and not (isinstance(block_size, Integral) and block_size >= 1):
        raise ValueError(f"block_size must be None or an integer of at least 1; got {block_size!r}")


def is_known(setting: ArrayLike) -> bool:
    """Whether the value is there to be checked: not so while it is traced."""
    return not isinstance(setting, jax.core.Tracer)
