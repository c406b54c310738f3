"""Rows of host arrays over the devices of a mesh, each device holding its share, and back again.

Everywhere in evaluation `sharding` splits the rows: `NamedSharding(mesh, PartitionSpec(axes))`. With None arrays are
used as they are, where they are.
"""

from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

Tree = TypeVar("Tree")


def split_rows(array: ArrayLike, sharding: NamedSharding | None, axis: int = 0) -> Any:
    """Gives each device an equal share of the rows, in order, the last ones filled up with zeros.

    Args:
      array: on the host, `rows` long along `axis`; the same in every process, which copies only its own devices'
        shares.
      sharding: of the rows.
      axis: the one split.

    Returns:
      The array with its rows padded to a multiple of the devices; `array` itself where `sharding` is None.

    Raises:
      ValueError: the sharding splits something else than the first dimension.
    """
    if sharding is None:
        return array
    if len(sharding.spec) != 1 or sharding.spec[0] is None:
        raise ValueError(f"sharding: got {sharding.spec}, takes one that splits rows, PartitionSpec(axes)")
    array = np.asarray(array)
    padded = list(array.shape)
    padded[axis] += -padded[axis] % sharding.num_devices

    def share(index: Any) -> np.ndarray:
        start, stop, _ = index[axis].indices(padded[axis])
        part = array[index]
        missing = stop - start - part.shape[axis]
        return np.pad(part, [(0, missing if i == axis else 0) for i in range(array.ndim)]) if missing else part

    split = NamedSharding(sharding.mesh, PartitionSpec(*[None] * axis, *sharding.spec))
    return jax.make_array_from_callback(tuple(padded), split, share)


def replicate(tree: Tree, sharding: NamedSharding | None) -> Tree:
    """Gives every device of the mesh the whole arrays."""
    return tree if sharding is None else jax.device_put(tree, NamedSharding(sharding.mesh, PartitionSpec()))


@partial(jax.jit, static_argnames=("count", "sharding"))
def first_rows(tree: Tree, count: int, sharding: NamedSharding | None) -> Tree:
    """The first `count` rows of each array, without what `split_rows` filled up, whole on every device."""
    tree = jax.tree.map(lambda x: x[:count], tree)
    if sharding is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(sharding.mesh, PartitionSpec()))
