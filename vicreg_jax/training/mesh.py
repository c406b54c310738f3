"""Where arrays live: a mesh of ('data', 'fsdp') devices, batches split over both, large parameters over 'fsdp'."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")
LARGE = 2**20  # entries of a parameter whose update every device shares


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

    What lies under `opt_state` is split over every device where it is large, as `update_shardings` says. The
    largest dimension that the number of parts divides is split.

    Args:
        mesh: from `make_mesh`.
        shapes: a pytree of arrays or their shapes.
        min_size: entries.
    """

    def leaf(path: Any, array: Any) -> NamedSharding:
        in_optimizer = bool(path) and getattr(path[0], "name", None) == "opt_state"
        return _update_sharding(mesh, array, min_size) if in_optimizer else _split(mesh, array, "fsdp", min_size)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def update_shardings(mesh: Mesh, params: Any) -> Any:
    """Where gradients and updates of parameters live: large ones are split over every device (ZeRO stage 1).

    Each device updates its part of a parameter, and all receive all parts: the same numbers, a fraction of the work
    and of the optimizer's memory. With small arrays the messages would cost more than the work.

    Source: Rajbhandari et al. 2020 (arXiv 1910.02054), section 5.1.
    """
    return jax.tree.map(lambda array: _update_sharding(mesh, array), params)


def _update_sharding(mesh: Mesh, array: Any, min_size: int = 2**12) -> NamedSharding:
    everywhere = _split(mesh, array, AXES, LARGE)
    return _split(mesh, array, "fsdp", min_size) if everywhere.is_fully_replicated else everywhere


def _split(mesh: Mesh, array: Any, axes: str | tuple[str, ...], min_size: int) -> NamedSharding:
    parts = mesh.shape[axes] if isinstance(axes, str) else mesh.size
    divisible = [axis for axis, size in enumerate(array.shape) if size % parts == 0]
    if parts == 1 or array.size < min_size or not divisible:
        return replicated(mesh)
    split = max(divisible, key=lambda axis: array.shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * split, axes))
