"""Devices by name, for compilation: TPU slices that are not here, forced CPU devices, the GPUs of this machine."""

import contextlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Chip:
    """What one device can do at most; None where nobody says.

    Attributes:
        memory: bytes of its own memory (HBM).
        flops: floating-point operations a second, of bfloat16 matrix products.
        memory_bandwidth: bytes a second between the chip and its memory.
        link_bandwidth: bytes a second over all its links to other chips.
    """

    memory: int | None = None
    flops: float | None = None
    memory_bandwidth: float | None = None
    link_bandwidth: float | None = None


@dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
        name: such as 'v5e:4x4'.
        devices: of which a mesh is made.
        chip: of each device.
    """

    name: str
    devices: Sequence[Any]
    chip: Chip


_GB = 10**9
# Per chip, from Google's system architecture pages of each generation (cloud.google.com/tpu/docs/v4, v5e, v5p, v6e):
# HBM capacity and bandwidth, peak bfloat16 compute, interchip interconnect bandwidth (the last still to be checked).
TPUS = {
    "v4": Chip(32 * 2**30, 275e12, 1228 * _GB, 300 * _GB),
    "v5e": Chip(16 * 2**30, 197e12, 819 * _GB, 200 * _GB),
    "v5p": Chip(95 * 2**30, 459e12, 2765 * _GB, 600 * _GB),
    "v6e": Chip(32 * 2**30, 918e12, 1640 * _GB, 448 * _GB),
}
_EXAMPLES = "v4:2x2x4, v5e:4x4, v5p:2x2x4, v6e:2x4, cpu:8, gpu"


def prepare(name: str) -> None:
    """Sets what must be set before the first use of a device; nothing is initialized.

    Raises:
        ValueError: no topology has such a name.
    """
    kind, _, shape = name.partition(":")
    if name == "gpu":
        return
    if kind == "cpu" and re.fullmatch(r"[1-9]\d*", shape):
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", int(shape))
    elif kind in TPUS and re.fullmatch(r"\d+(x\d+){1,2}", shape):
        jax.config.update("jax_platforms", "cpu")  # the slice is not here
        os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # do not ask Google Cloud which slice this host belongs to
    else:
        raise ValueError(f"topology must be one such as {_EXAMPLES}; got {name!r}")


def open_topology(name: str) -> Topology:
    """The devices of that name. Call `prepare` first.

    Raises:
        ValueError: there are none: the compiler knows no slice of that shape, libtpu is missing, or this machine has
            no GPU.
    """
    kind, _, shape = name.partition(":")
    if kind == "cpu":
        return Topology(name, jax.devices("cpu"), Chip())
    if kind == "gpu":
        try:
            with _quiet_standard_error():
                devices = jax.devices("gpu")
        except RuntimeError as error:
            raise ValueError("topology must be one that is here; got 'gpu' on a machine without one") from error
        return Topology(name, devices, Chip(memory=(devices[0].memory_stats() or {}).get("bytes_limit")))
    return Topology(name, _tpu_devices(kind, shape), TPUS[kind])


def _tpu_devices(kind: str, shape: str) -> Sequence[Any]:
    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "topology must be one whose compiler is installed (pip install '.[tpu]'); "
            f"got {kind + ':' + shape!r} without libtpu"
        )
    sides = [int(side) for side in shape.split("x")]
    options: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    if kind in ("v5e", "v6e") and max(sides) == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        with _quiet_standard_error():
            return topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:{shape}", **options).devices
    except jax.errors.JaxRuntimeError as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"topology must be a slice that the compiler takes, such as {_EXAMPLES}; got {kind + ':' + shape!r} "
            f"({said:.160})"
        ) from error


@contextlib.contextmanager
def _quiet_standard_error() -> Iterator[None]:
    """Drops what libtpu says where it finds no TPU."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as dropped:
        os.dup2(dropped.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
