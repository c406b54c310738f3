"""The memory estimate before the first step, and readable device errors."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from vicreg_jax.runtime.errors import TrainingError
from vicreg_jax.runtime.processes import raise_if_lost

# jax.jit raises some of the runtime's errors as a ValueError: they begin with the runtime's status.
_STATUS = re.compile(r"(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED): ")


def memory_estimate(train_step: jax.stages.Compiled, data_bytes: int, remedy: str) -> tuple[str, bool]:
    """One line with the memory that a run needs per device, and whether the device has it.

    Args:
        train_step: the compiled step.
        data_bytes: bytes of the images that live on each device.
        remedy: a sentence on what needs less memory.
    """
    analysis: Any = train_step.memory_analysis()
    inputs, temporary = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    needed = inputs + temporary + data_bytes
    text = (
        f"{needed / 2**20:.0f} MiB needed per device (state and batch {inputs / 2**20:.0f}, activations and "
        f"gradients {temporary / 2**20:.0f}, data {data_bytes / 2**20:.0f})"
    )
    available = _device_memory()
    if needed <= available:
        return f"{text} of {available / 2**20:.0f} MiB", True
    return f"{text}, only {available / 2**20:.0f} MiB available. {remedy}", False


def _device_memory() -> float:
    device = jax.local_devices()[0]
    if (limit := (device.memory_stats() or {}).get("bytes_limit")) is not None:
        return limit
    # CPU devices share the host's memory.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()


@contextmanager
def explained_device_errors(remedy: str) -> Iterator[None]:
    """Turns the runtime's page into one line where the memory is full or another process is gone.

    Args:
        remedy: a sentence on what needs less memory.

    Raises:
        TrainingError: the devices are out of memory.
        ProcessLost: another process is gone.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        said = str(error)
        if not isinstance(error, jax.errors.JaxRuntimeError) and not _STATUS.match(said):
            raise
        if "RESOURCE_EXHAUSTED" in said or "out of memory" in said.lower():
            raise TrainingError(f"the devices are out of memory. {remedy} ({said.splitlines()[0]:.200})") from error
        raise_if_lost(error)
        raise
