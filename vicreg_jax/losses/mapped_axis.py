"""Operations across devices. An `axis_name` of None means that the array already holds the global batch.

Every loss follows one pattern, so that one gradient rule holds: each device computes a partial result, and a sum or
mean over the axis comes last. This includes losses on gathered rows. If every device computed the full loss from
them, the value would be right, but where JAX itself sums the gradients of replicated parameters (`shard_map` with
`check_vma=True`) the gradient would be too large by a factor of the number of devices.
"""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def axis_size(axis_name: Hashable | None) -> int:
    """Return the number of shards, which is static."""
    return 1 if axis_name is None else lax.axis_size(axis_name)


def global_batch(x: Array, axis_name: Hashable | None) -> int:
    """Return the number of rows of `x` `[batch, dim]` over all shards, which is static."""
    return x.shape[0] * axis_size(axis_name)


def axis_sum(x: Array, axis_name: Hashable | None) -> Array:
    """Sum over the shards; the result is the same on every shard."""
    return x if axis_name is None else lax.psum(x, axis_name)


def axis_mean(x: Array, axis_name: Hashable | None) -> Array:
    """Average over the shards; the result is the same on every shard."""
    return x if axis_name is None else lax.pmean(x, axis_name)


def gather_rows(x: Array, axis_name: Hashable | None) -> Array:
    """Gather the rows of `x` `[batch, dim]` from all shards, in the order of the axis."""
    if axis_name is not None:
        return lax.all_gather(x, axis_name, tiled=True)
    sharding = replicated_sharding(x)
    return x if sharding is None else jax.reshard(x, sharding)


def row_positions(x: Array, axis_name: Hashable | None) -> Array:
    """Return the positions, int32 `[batch]`, of this shard's rows among the rows that `gather_rows` returns."""
    positions = jnp.arange(x.shape[0], dtype=jnp.int32)
    return positions if axis_name is None else positions + lax.axis_index(axis_name) * x.shape[0]


def replicated_sharding(x: Array) -> NamedSharding | None:
    """Return the fully replicated sharding over the mesh of `x`, or None if the compiler chooses the sharding.

    `jax.make_mesh` creates axes of explicit type by default. On these, a product of arrays that are sharded along the
    contracted axis is an error unless the result's sharding is given.
    """
    mesh = jax.typeof(x).sharding.mesh
    return NamedSharding(mesh, PartitionSpec()) if AxisType.Explicit in mesh.axis_types else None
