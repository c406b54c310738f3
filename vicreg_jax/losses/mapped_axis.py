"""What a loss does across devices. An `axis_name` of None says that the array already is the global batch.

A loss keeps to one pattern, and with it to one gradient rule: each device computes a part, and a sum or mean
over the axis is the last thing that happens to it. That goes for gathered rows, too: a loss that every device
computes in full from them has the right value, but where JAX itself adds up the gradients of replicated
parameters (`shard_map` with `check_vma=True`) its gradient is too large by the number of devices.
"""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def axis_size(axis_name: Hashable | None) -> int:
    """Number of shards, known when tracing."""
    return 1 if axis_name is None else lax.axis_size(axis_name)


def global_batch(x: Array, axis_name: Hashable | None) -> int:
    """Number of rows `[batch, dim]` of all shards together, known when tracing."""
    return x.shape[0] * axis_size(axis_name)


def axis_sum(x: Array, axis_name: Hashable | None) -> Array:
    """Sum over the shards, the same on each of them."""
    return x if axis_name is None else lax.psum(x, axis_name)


def axis_mean(x: Array, axis_name: Hashable | None) -> Array:
    """Mean over the shards, the same on each of them."""
    return x if axis_name is None else lax.pmean(x, axis_name)


def gather_rows(x: Array, axis_name: Hashable | None) -> Array:
    """The rows `[batch, dim]` of all shards, in the order of the axis."""
    if axis_name is not None:
        return lax.all_gather(x, axis_name, tiled=True)
    sharding = replicated_sharding(x)
    return x if sharding is None else jax.reshard(x, sharding)


def row_positions(x: Array, axis_name: Hashable | None) -> Array:
    """Where the rows `[batch, dim]` of this shard are among those that `gather_rows` returns: int32 `[batch]`."""
    positions = jnp.arange(x.shape[0], dtype=jnp.int32)
    return positions if axis_name is None else positions + lax.axis_index(axis_name) * x.shape[0]


def replicated_sharding(x: Array) -> NamedSharding | None:
    """The sharding "all of it on every device" over the mesh of `x`, or None where the compiler chooses.

    `jax.make_mesh` makes axes of explicit type unless told otherwise. On those a product of sharded arrays is
    an error until it is said how the result is to be sharded.
    """
    mesh = jax.typeof(x).sharding.mesh
    return NamedSharding(mesh, PartitionSpec()) if AxisType.Explicit in mesh.axis_types else None
