"""Devices by name, for compilation: TPU slices and GPUs that are not here, forced CPU devices, this machine's GPUs."""

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
# From NVIDIA's data sheet (SXM): memory, dense bfloat16 compute, bandwidth, NVLink in one direction.
GPUS = {"h100": Chip(80 * _GB, 989e12, 3350 * _GB, 450 * _GB)}
# What XLA asks of a device: the facts of its `xla/tools/hlo_opt/gpu_specs/h100_sxm.txtpb`, and versions of libraries.
_TARGETS = {
    "h100": """
        gpu_device_info {
          cuda_compute_capability { major: 9 }
          threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
          shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
          core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
          block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
          registers_per_core_limit: 65536  registers_per_block_limit: 65536
          l2_cache_size: 52428800  memory_bandwidth: 3352320000000  device_memory_size: 84978434048
        }
        platform_name: "CUDA"
        device_description_str: "NVIDIA H100 80GB HBM3"
        runtime_version { major: 13 }
        dnn_version_info { major: 9 minor: 12 }
    """
}
_EXAMPLES = "v4:2x2x4, v5e:4x4, v5p:2x2x4, v6e:2x4, h100:8, cpu:8, gpu"


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
    elif kind in GPUS and re.fullmatch(r"([1-9]\d*x)?[1-9]\d*", shape):
        jax.config.update("jax_platforms", "cpu")
        # There is nothing to try algorithms on.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    else:
        raise ValueError(f"topology must be one such as {_EXAMPLES}; got {name!r}")


def open_topology(name: str) -> Topology:
    """The devices of that name. Call `prepare` first.

    Raises:
        ValueError: there are none: the compiler knows no slice of that shape, it is not installed, or this machine
            has no GPU.
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
    if kind in GPUS:
        return Topology(name, _gpu_devices(kind, shape), GPUS[kind])
    return Topology(name, _tpu_devices(kind, shape), TPUS[kind])


def _gpu_devices(kind: str, shape: str) -> Sequence[Any]:
    """`shape` is the number of GPUs, or hosts x GPUs of each."""
    from jax.experimental import topologies

    _check_installed("jax_plugins.xla_cuda13", "gpu", f"{kind}:{shape}")
    hosts, _, gpus = shape.rpartition("x")
    bounds = f"1x{hosts or 1}x{gpus}"
    with _quiet_standard_error():
        return topologies.get_topology_desc(
            platform="cuda", topology_name=bounds, topology=bounds, target_config=_TARGETS[kind]
        ).devices


def _check_installed(module: str, extra: str, name: str) -> None:
    try:
        is_installed = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is missing too
        is_installed = False
    if not is_installed:
        raise ValueError(
            f"topology must be one whose compiler is installed (pip install '.[{extra}]'); got {name!r} without it"
        )


def _tpu_devices(kind: str, shape: str) -> Sequence[Any]:
    from jax.experimental import topologies

    _check_installed("libtpu", "tpu", f"{kind}:{shape}")
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
