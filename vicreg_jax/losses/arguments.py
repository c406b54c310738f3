"""Argument checks and dtype promotion that the losses share. Each error names the argument."""

from collections.abc import Callable, Hashable
from numbers import Integral
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.errors import InconclusiveDimensionOperation
from jax.typing import ArrayLike, DTypeLike

from vicreg_jax.losses.global_batch import GlobalBatch, axis_size


def as_batch(
    where: ArrayLike | None, axis_name: Hashable | None, **embeddings: ArrayLike
) -> tuple[GlobalBatch, list[Array]]:
    """Check the arrays and the rows that count, see `as_embeddings`, and set the rows that do not count to zero.

    Args:
        where: bool `[batch]`, or None if all rows count.
        axis_name: None if the arrays hold the global batch, otherwise the mapped axis over which it is sharded.
        **embeddings: the arrays, keyed by the caller's argument names.

    Returns:
        The global batch, and the arrays in the given order.

    Raises:
        TypeError: if a dtype is not real floating-point, or `where` is not boolean.
        ValueError: if a shape does not fit, or no enclosing transformation maps `axis_name`.
    """
    arrays = as_embeddings(**embeddings)
    rows = arrays[0].shape[0]
    if where is not None:
        where = jnp.asarray(where)
        if where.dtype != bool:
            raise TypeError(f"where must have dtype bool; got dtype {where.dtype}")
        if where.shape != (rows,):
            raise ValueError(f"where must have shape [batch], ({rows},); got shape {where.shape}")
    batch = GlobalBatch(where, rows * axis_size(axis_name), axis_name)
    return batch, [batch.keep(z) for z in arrays]


def as_batch_of_views(
    where: ArrayLike | None, axis_name: Hashable | None, z: ArrayLike
) -> tuple[GlobalBatch, list[Array]]:
    """Check an array of all views, `[views, batch, dim]` with at least two, and split it; otherwise as `as_batch`."""
    z = jnp.asarray(z)
    if z.ndim != 3 or known(lambda: z.shape[0] < 2):
        raise ValueError(f"z must have shape [views, batch, dim] with at least 2 views; got shape {z.shape}")
    return as_batch(where, axis_name, **{"z": z[0]}, **{f"z[{view}]": z[view] for view in range(1, len(z))})


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
            hint = "" if z.ndim != 3 else " (jax.vmap the loss over the third axis; to flatten it is another loss)"
            raise ValueError(f"{name} must have shape [batch, dim]; got shape {z.shape}{hint}")
        if 0 in z.shape:
            raise ValueError(f"{name} must have at least one row and one column; got shape {z.shape}")
        if z.shape != first.shape:
            raise ValueError(f"{name} must have the same shape as {first_name}, {first.shape}; got shape {z.shape}")
    return as_dtype(widest_dtype(*embeddings.values()), *embeddings.values())


def widest_dtype(*arrays: Array) -> DTypeLike:
    """Return float64 if any array has it, otherwise float32: 16 bits are too few for sums over batch and dim."""
    return jnp.float64 if any(x.dtype == jnp.float64 for x in arrays) else jnp.float32


def as_dtype(dtype: DTypeLike, *arrays: Array) -> list[Array]:
    """Cast arrays."""
    return [x.astype(dtype) for x in arrays]


def check_global_batch(name: str, batch: GlobalBatch, z: Array, *, min_rows: int = 2) -> None:
    """Raise ValueError if the global batch has fewer than `min_rows` rows: one row has no variance."""
    if known(lambda: batch.rows < min_rows):
        shards = "" if batch.axis_name is None else f" on each of {axis_size(batch.axis_name)} shards"
        along = "" if batch.axis_name is None else f" along {batch.axis_name!r}"
        raise ValueError(
            f"{name} must have a global batch of at least {min_rows} rows; got shape {z.shape}{shards}{along}"
        )


class Rule(NamedTuple):
    """What the value of a setting must be, in words and as a function."""

    text: str
    holds: Callable[[np.ndarray], bool]


FINITE = Rule("finite", lambda value: bool(np.isfinite(value)))
NOT_NEGATIVE = Rule("at least 0 and finite", lambda value: bool(0 <= value < np.inf))
POSITIVE = Rule("above 0", lambda value: bool(value > 0))
PROBABILITY = Rule("in [0, 1)", lambda value: bool(0 <= value < 1))


def as_scalars(dtype: DTypeLike, rule: Rule, **settings: ArrayLike) -> list[Array]:
    """Cast weights, temperatures and other numbers to the embeddings' dtype, so that they do not promote the loss.

    Args:
        dtype: dtype of the embeddings.
        rule: what a setting must be; checked if its value is known, so not while it is traced.
        **settings: numbers, traced or not, keyed by the caller's argument names.

    Returns:
        Scalars in the given order.

    Raises:
        TypeError: if a setting is not a real number.
        ValueError: if a setting is not a scalar, or breaks the rule.
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
        if not isinstance(setting, jax.core.Tracer) and not rule.holds(np.asarray(setting)):
            raise ValueError(f"{name} must be {rule.text}; got {setting}")
        scalars.append(scalar.astype(dtype))
    return scalars


def no_arithmetic(terms: tuple[Array, ...], other: Any) -> NoReturn:
    """Refuse `+` and `*` of a named tuple of terms: as a tuple it would be concatenated or repeated.

    Raises:
        TypeError: always.
    """
    raise TypeError(f"{type(terms).__name__} must not be added or multiplied, it is a tuple of terms; use its .loss")


def check_block_size(block_size: int | None) -> None:
    """Raise ValueError unless `block_size` is None or a positive integer."""
    if block_size is not None and not (isinstance(block_size, Integral) and block_size >= 1):
        raise ValueError(f"block_size must be None or a positive integer; got {block_size!r}")


def known(condition: Callable[[], bool]) -> bool:
    """Return whether a condition on shapes is known to hold: those of symbolic shapes can be undecidable."""
    try:
        return bool(condition())
    except InconclusiveDimensionOperation:
        return False
