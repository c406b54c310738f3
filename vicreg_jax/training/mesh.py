"""Where arrays live: a mesh of ('data', 'fsdp') devices, batches split over both, large parameters over 'fsdp'."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of `data` by `fsdp` devices; -1 in one of them stands for all remaining devices.

    Args:
        data, fsdp: sides of the mesh.
        devices: to make it of; None: all that are here.

    Raises:
        ValueError: the two do not multiply to the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    shape = [data, fsdp]
    for axis in (0, 1):
        if shape[axis] == -1 and shape[1 - axis] >= 1 and count % shape[1 - axis] == 0:
            shape[axis] = count // shape[1 - axis]
    if shape[0] * shape[1] != count:
        raise ValueError(
            f"data times fsdp must be the number of devices, {count} (-1 in one of them: all remaining devices); "
            f"got data={data}, fsdp={fsdp}"
        )
    # Auto: the losses contract over the batch, which an explicit mesh (the default of jax.make_mesh) refuses.
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The batch dimension split over every device."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh, shapes: Any, min_size: int = 2**12) -> Any:
    """A sharding per leaf: arrays of at least `min_size` entries are split over 'fsdp', the rest replicated.

    The largest dimension that 'fsdp' divides is split. `shapes` is a pytree of arrays or their shapes.
    """
    fsdp = mesh.shape["fsdp"]

    def leaf(array: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(array.shape) if size % fsdp == 0]
        if fsdp == 1 or array.size < min_size or not divisible:
            return replicated(mesh)
        split = max(divisible, key=lambda axis: array.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * split, "fsdp"))

    return jax.tree.map(leaf, shapes)
