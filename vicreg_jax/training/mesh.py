"""Where arrays live: a mesh of ('data', 'fsdp') devices, batches split over both, large parameters over 'fsdp'."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vicreg_jax.runtime.errors import InputError

AXES = ("data", "fsdp")


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
    """A mesh over all devices, `data` by `fsdp`; one of the two may be -1: as many as are left.

    Raises:
      InputError: where the two do not multiply to the number of devices.
    """
    devices = jax.device_count()
    shape = [data, fsdp]
    for axis in (0, 1):
        if shape[axis] == -1 and shape[1 - axis] >= 1 and devices % shape[1 - axis] == 0:
            shape[axis] = devices // shape[1 - axis]
    if shape[0] * shape[1] != devices:
        raise InputError(
            f"config.mesh: got data={data}, fsdp={fsdp} for {devices} device(s), takes two numbers whose product "
            f"is {devices} (-1 in one of them: as many as are left)"
        )
    # Auto: the losses contract over the batch, which an Explicit mesh (the default of jax.make_mesh) refuses.
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The batch dimension split over every device."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh, shapes: Any, minimum_size: int = 2**12) -> Any:
    """A sharding per leaf: arrays of at least `minimum_size` entries are split over 'fsdp', the rest replicated.

    The largest dimension that 'fsdp' divides is the one split. `shapes` is a pytree of things with a `shape`.
    """
    fsdp = mesh.shape["fsdp"]

    def leaf(array: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(array.shape) if size % fsdp == 0]
        if fsdp == 1 or array.size < minimum_size or not divisible:
            return replicated(mesh)
        split = max(divisible, key=lambda axis: array.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * split, "fsdp"))

    return jax.tree.map(leaf, shapes)
