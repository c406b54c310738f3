"""Argument checks and dtype promotion that the losses share. Each error names the argument."""

from collections.abc import Hashable
from numbers import Integral

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from vicreg_jax.losses.mapped_axis import axis_size, global_batch


def as_embeddings(**arguments: ArrayLike) -> list[Array]:
    """Check arrays that share one shape `[batch, dim]`, and promote them to one dtype, at least float32.

    Args:
        **arguments: the arrays, keyed by the caller's argument names.

    Returns:
        The arrays in the given order, all in float32, or all in float64 if any of them is float64.

    Raises:
        TypeError: if a dtype is not real floating-point.
        ValueError: if a shape is not `[batch, dim]`, is empty, or differs from the first argument's shape.
    """
    embeddings = {name: jnp.asarray(argument) for name, argument in arguments.items()}
    first_name, first = next(iter(embeddings.items()))
    for name, z in embeddings.items():
        if not jnp.issubdtype(z.dtype, jnp.floating):
            raise TypeError(f"{name} must have a floating-point dtype; got dtype {z.dtype}")
        if z.ndim != 2:
            raise ValueError(f"{name} must have shape [batch, dim]; got shape {z.shape}")
        if z.size == 0:
            raise ValueError(f"{name} must have at least one row and one column; got shape {z.shape}")
        if z.shape != first.shape:
            raise ValueError(f"{name} must have the same shape as {first_name}, {first.shape}; got shape {z.shape}")
    # 16 bits are enough for embeddings, but not for sums over batch and dim.
    dtype = jnp.result_type(jnp.float32, *embeddings.values())
    return [z.astype(dtype) for z in embeddings.values()]


def check_global_batch(name: str, z: Array, axis_name: Hashable | None, *, min_rows: int = 2) -> None:
    """Raise ValueError if the global batch has fewer than `min_rows` rows: one row has no variance."""
    if global_batch(z, axis_name) < min_rows:
        where = "" if axis_name is None else f" on each of {axis_size(axis_name)} shards along {axis_name!r}"
        raise ValueError(f"{name} must have a global batch of at least {min_rows} rows; got shape {z.shape}{where}")


def as_scalars(dtype: DTypeLike, **settings: ArrayLike) -> list[Array]:
    """Cast weights, temperatures and other numbers to the embeddings' dtype, so that they do not promote the loss.

    Args:
        dtype: dtype of the embeddings.
        **settings: numbers, traced or not, keyed by the caller's argument names.

    Returns:
        Scalars in the given order.

    Raises:
        TypeError: if a setting is not a real number.
        ValueError: if a setting is not a scalar.
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
    """Cast the temperature to the embeddings' dtype. Raise ValueError if its value is known and not positive."""
    (scalar,) = as_scalars(dtype, temperature=temperature)
    if is_known(temperature) and not np.asarray(temperature) > 0:
        raise ValueError(f"temperature must be above 0; got {temperature}")
    return scalar


def check_block_size(block_size: int | None) -> None:
    """Raise ValueError unless `block_size` is None or a positive integer."""
    if block_size is not None and not (isinstance(block_size, Integral) and block_size >= 1):
        raise ValueError(f"block_size must be None or a positive integer; got {block_size!r}")


def is_known(setting: ArrayLike) -> bool:
    """Return whether the value can be checked now: a traced value cannot."""
    return not isinstance(setting, jax.core.Tracer)
