"""What a step needs of the devices' memory and what there is, said before the first step; and what they fail with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from vicreg_jax.runtime.errors import Preempted, TrainingError
from vicreg_jax.runtime.processes import are_several

_REMEDY = (
    "config.train.microbatch_size, config.train.remat, config.mesh.fsdp or a smaller config.train.batch_size "
    "make it less"
)
# What transports between processes say of a peer that is gone.
_LOST = ("gloo", "nccl", "connection", "unavailable", "deadline", "heartbeat", "barrier", "coordination")


def memory_needed(train_step: jax.stages.Compiled, data_bytes: int) -> tuple[str, bool]:
    """A line on what a run needs on each device, and whether that is there.

    Args:
      train_step: whose program says what it needs.
      data_bytes: of the images that live on each device.
    """
    analysis: Any = train_step.memory_analysis()
    inputs, temporary = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    needed = inputs + temporary + data_bytes
    text = (
        f"{needed / 2**20:.0f} MiB needed on each device (state and batch {inputs / 2**20:.0f}, activations and "
        f"gradients {temporary / 2**20:.0f}, data {data_bytes / 2**20:.0f})"
    )
    there = _device_memory()
    if needed <= there:
        return f"{text}, of {there / 2**20:.0f} MiB", True
    return f"{text}; there are {there / 2**20:.0f} MiB. {_REMEDY}", False


def _device_memory() -> float:
    device = jax.local_devices()[0]
    if (there := (device.memory_stats() or {}).get("bytes_limit")) is not None:
        return there
    # CPU devices share the host's.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()


@contextmanager
def explained_device_errors(remedy: str = _REMEDY) -> Iterator[None]:
    """Says in a line what the runtime says in a page: the memory is full, or another process is gone.

    Args:
      remedy: what makes the memory needed less.

    Raises:
      TrainingError: the first.
      Preempted: the second.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
        if "RESOURCE_EXHAUSTED" in said or "out of memory" in said.lower():
            raise TrainingError(f"the devices' memory is full. {remedy}. ({said.splitlines()[0]:.200})") from error
        if are_several() and any(word in said.lower() for word in _LOST):
            raise Preempted(
                f"another process of this run is gone ({said.splitlines()[0]:.200}); the same command, on all hosts, "
                "goes on from the last checkpoint"
            ) from error
        raise
