"""Split the rows of host arrays over the devices of a mesh, and gather them again.

Throughout evaluation, `sharding` is `NamedSharding(mesh, PartitionSpec(axes))` and splits the rows. With None, arrays
are used where they are.
"""

from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

Tree = TypeVar("Tree")


def split_rows(array: ArrayLike, sharding: NamedSharding | None, axis: int = 0) -> Any:
    """Give each device an equal share of the rows, in order, padded with zeros at the end.

    Args:
        array: host array, the same in every process; each process copies only its own devices' shares.
        sharding: sharding of the rows; None returns `array` itself.
        axis: axis of the rows.

    Returns:
        The sharded array, its rows padded to a multiple of the number of devices.

    Raises:
        ValueError: the sharding does not split exactly the first dimension.
    """
    if sharding is None:
        return array
    if len(sharding.spec) != 1 or sharding.spec[0] is None:
        raise ValueError(f"sharding must split rows, as PartitionSpec(axes) does; got {sharding.spec}")
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
    """Replicate arrays on every device of the mesh."""
    return tree if sharding is None else jax.device_put(tree, NamedSharding(sharding.mesh, PartitionSpec()))


@partial(jax.jit, static_argnames=("count", "sharding"))
def first_rows(tree: Tree, count: int, sharding: NamedSharding | None) -> Tree:
    """Take the first `count` rows of each array, without the padding of `split_rows`, replicated on every device."""
    tree = jax.tree.map(lambda x: x[:count], tree)
    if sharding is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(sharding.mesh, PartitionSpec()))
