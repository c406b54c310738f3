"""The rows that a loss is reduced over: those that count, of all shards.

Every loss follows one pattern, so that one gradient rule holds: each device computes a partial result, and a sum or
mean over the axis comes last. This includes losses on gathered rows. If every device computed the full loss from
them, the value would be right, but where JAX itself sums the gradients of replicated parameters (`shard_map` with
`check_vma=True`) the gradient would be too large by a factor of the number of devices.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import DTypeLike


@partial(jax.tree_util.register_dataclass, data_fields=("where",), meta_fields=("rows", "axis_name"))
@dataclass(frozen=True)
class GlobalBatch:
    """The rows of the global batch, how they are split over devices, and which of them count.

    Methods take this shard's rows, `[batch, ...]`. For a sum or a mean, rows that do not count must be zero: `keep`.

    Attributes:
        where: bool `[batch]`, which of this shard's rows count; None: all of them.
        rows: number of rows over all shards, whether they count or not; static.
        axis_name: None if the arrays hold the global batch, otherwise the mapped axis over which it is sharded.
    """

    where: Array | None
    rows: int
    axis_name: Hashable | None = None

    def count(self, dtype: DTypeLike, *, minimum: int = 0) -> int | Array:
        """Return the number of rows that count, or `minimum` if that is larger: a scalar, static without `where`."""
        if self.where is None:
            return self.rows
        return jnp.maximum(self.axis_sum(jnp.sum(self.where, dtype=dtype)), minimum)

    def keep(self, x: Array, *, rows_axis: int = 0) -> Array:
        """Set the rows that do not count to zero."""
        if self.where is None:
            return x
        other_axes = [axis for axis in range(x.ndim) if axis != rows_axis % x.ndim]
        return jnp.where(lax.expand_dims(self.where, other_axes), x, 0)

    def mean(self, x: Array, axis: int | None = None) -> Array:
        """Average over the rows that count (`axis=0`), or over all their entries; 0 if no row counts."""
        if self.where is None:
            return self.axis_mean(jnp.mean(x, axis=axis))
        # Exactly 1 if all rows count: the result then differs from that of `where=None` at most by how XLA fuses it.
        ratio = self.rows / self.count(x.dtype, minimum=1)
        scale = ratio / (x.size if axis is None else x.shape[axis])
        return self.axis_mean(jnp.sum(x, axis=axis) * scale)

    def sum(self, x: Array) -> Array:
        """Sum over all rows (axis 0), those of the other shards included."""
        return self.axis_sum(jnp.sum(x, axis=0))

    def axis_sum(self, x: Array) -> Array:
        """Sum over the shards; the result is the same on every shard."""
        return x if self.axis_name is None else lax.psum(x, self.axis_name)

    def axis_mean(self, x: Array) -> Array:
        """Average over the shards; the result is the same on every shard."""
        return x if self.axis_name is None else lax.pmean(x, self.axis_name)

    def gather(self, x: Array, *, rows_axis: int = 0) -> Array:
        """Gather the rows of all shards, in the order of the axis."""
        if self.axis_name is None:
            return replicated(x)
        return lax.all_gather(x, self.axis_name, axis=rows_axis, tiled=True)

    def exchange(self, x: Array) -> tuple[Array, Array]:
        """Trade rows for slices: every slice of this shard's rows, for all rows of this shard's slices.

        Args:
            x: `[slices, batch]`.

        Returns:
            `[slices of a shard, rows]`, with the rows in the order of `gather`, and bool `[slices of a shard]`, which
            of them are slices: the shards have equally many, so there may be some of zeros in addition.
        """
        slices, shards = x.shape[0], axis_size(self.axis_name)
        if self.axis_name is None:
            shards = explicit_shards(x, axis=1)
        of_shard = -(-slices // shards)
        x = jnp.pad(x, ((0, shards * of_shard - slices), (0, 0)))
        if self.axis_name is None:
            return _swap_explicit_axes(x), jnp.arange(shards * of_shard) < slices
        first = lax.axis_index(self.axis_name) * of_shard
        x = lax.all_to_all(x, self.axis_name, split_axis=0, concat_axis=1, tiled=True)
        return x, first + jnp.arange(of_shard, dtype=first.dtype) < slices

    def positions(self, x: Array) -> Array:
        """Return the positions, int32 `[batch]`, of this shard's rows among the rows that `gather` returns."""
        positions = jnp.arange(x.shape[0], dtype=jnp.int32)
        return positions if self.axis_name is None else positions + lax.axis_index(self.axis_name) * x.shape[0]


def axis_size(axis_name: Hashable | None) -> int:
    """Return the number of shards, which is static.

    Raises:
        ValueError: if no enclosing transformation maps the axis.
    """
    try:
        return 1 if axis_name is None else lax.axis_size(axis_name)
    except NameError as error:
        raise ValueError(
            f"axis_name must be an axis of the enclosing shard_map, pmap or vmap; got {axis_name!r} "
            "(leave it None under jax.jit over global arrays)"
        ) from error


def replicated(x: Array) -> Array:
    """Replicate an array over its mesh, if its axes are explicit; otherwise the compiler does what is needed."""
    sharding = replicated_sharding(x)
    return x if sharding is None else jax.reshard(x, sharding)


def replicated_sharding(x: Array) -> NamedSharding | None:
    """Return the fully replicated sharding over the mesh of `x`, or None if the compiler chooses the sharding.

    `jax.make_mesh` creates axes of explicit type by default. On these, a product of arrays that are sharded along the
    contracted axis is an error unless the result's sharding is given.
    """
    sharding = explicit_sharding(x)
    return None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec())


def explicit_sharding(x: Array) -> NamedSharding | None:
    """Return the sharding of `x`, or None if the compiler chooses it."""
    sharding = jax.typeof(x).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def _swap_explicit_axes(x: Array) -> Array:
    """Shard a matrix along the other axis, if its axes are explicit; otherwise the compiler does what is needed."""
    sharding = explicit_sharding(x)
    if sharding is None:
        return x
    return jax.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*reversed(sharding.spec))))


def explicit_shards(x: Array, *, axis: int) -> int:
    """Return the number of shards along an axis of `x`, 1 if the compiler chooses the sharding."""
    sharding = jax.typeof(x).sharding
    names = sharding.spec[axis]
    return math.prod(sharding.mesh.shape[name] for name in (names if isinstance(names, tuple) else (names,)) if name)
