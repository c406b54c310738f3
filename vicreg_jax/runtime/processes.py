"""Several processes of one run: how they find each other, and how they agree on one answer."""

import collections
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vicreg_jax.runtime import coordination
from vicreg_jax.runtime.errors import InputError, ProcessLost

# A process silent for this long counts as dead, and the others end.
HEARTBEAT_SECONDS = 60
# How long the first process waits for the others to end: if all end together, and if it may be the only one. The latter
# is shorter than the heartbeat's time, after which JAX would abort this process because another has died.
SECONDS_TOGETHER, SECONDS_ALONE = 300, 30
# Words of the transports between processes about a lost peer.
_LOST = ("gloo", "nccl", "connection", "unavailable", "deadline", "heartbeat", "barrier", "coordination")
# A vote is counted this many steps later: by then every process has cast it, and none waits.
_VOTES_IN_FLIGHT = 8


def platform_with_hosts() -> str | None:
    """The platform that may have started this process as one of several: 'Cloud TPU', 'SLURM' or None."""
    # A shell inside an allocation sees SLURM's variables too; only `srun` starts more than one task.
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return "SLURM"
    wanted = os.environ.get("JAX_PLATFORMS", "tpu")
    if "tpu" in wanted and (any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*"))):
        import importlib.util

        return "Cloud TPU" if importlib.util.find_spec("libtpu") else None
    return None


def start(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    distributed: bool | None = None,
) -> None:
    """Joins the other processes, where there are any. Call it before the first use of a device.

    Args:
        coordinator_address: HOST:PORT of process 0. Give all of the first three arguments, or none.
        num_processes: number of processes.
        process_id: index of this process, from 0.
        distributed: whether to ask the platform where the first three are missing; None: if `platform_with_hosts`
            names one.

    Raises:
        InputError: an argument is missing or out of range, or the platform does not know the other hosts.
        ProcessLost: the other processes did not arrive in time; a host that dies takes minutes to come back.
    """
    given = (coordinator_address, num_processes, process_id)
    if any(argument is not None for argument in given) and None in given:
        raise InputError("--coordinator_address, --num_processes and --process_id must be given together")
    if num_processes is not None and not 0 <= (process_id or 0) < num_processes:
        raise InputError(
            f"--process_id must be from 0 to {num_processes - 1} for {num_processes} processes; got {process_id}"
        )
    platform = platform_with_hosts()
    if distributed is False or (distributed is None and coordinator_address is None and platform is None):
        return
    # Its SIGTERM handler would replace ours (`runtime.preemption`).
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except jax.errors.JaxRuntimeError as error:
        said = " ".join(str(error).split())
        raise ProcessLost(f"timed out waiting for the other processes ({said:.200}); rerun the same command") from error
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"--distributed must find the other processes; got {' '.join(str(error).split())} (on a single host, give "
            "--nodistributed)"
        ) from error


def end_process(exit_code: int, seconds: float) -> None:
    """Ends this process at once, if it is one of several: an orderly exit might wait for the others forever.

    Args:
        exit_code: of this process.
        seconds: how long the first process waits for the others to end, for the coordination service ends with it.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        coordination.leave(seconds)
        os._exit(exit_code)


def are_several() -> bool:
    """Whether this is one of several processes."""
    return jax.process_count() > 1


def raise_if_lost(error: Exception) -> None:
    """Raises `ProcessLost` for an error of a transport between processes: another process of this run is gone.

    Args:
        error: of JAX, or of what wraps one.
    """
    said = str(error)
    if are_several() and any(word in said.lower() for word in _LOST):
        raise ProcessLost(
            f"another process of this run is gone ({said.splitlines()[0]:.200}); rerun the same command on all hosts "
            "to resume from the last checkpoint"
        ) from error


def is_first() -> bool:
    """Whether this process writes the files and prints to the console."""
    return jax.process_index() == 0


def decide(choose: Callable[[], Any]) -> Any:
    """Calls `choose` in the first process only; returns its answer in every process.

    Args:
        choose: returns anything that JSON holds.

    Raises:
        InputError: in every process, where `choose` raises it in the first.
    """
    if not are_several():
        return choose()
    answer = {}
    if is_first():
        try:
            answer["value"] = choose()
        except InputError as error:
            answer["error"] = str(error)
    answer = coordination.combine(answer, lambda said: said[0])
    if "error" in answer:
        raise InputError(answer["error"])
    return answer["value"]


def all_agree(is_so: bool) -> bool:
    """Whether `is_so` holds in every process."""
    return coordination.combine(bool(is_so), all)


def union(numbers: Iterable[int]) -> set[int]:
    """The union of the integers of all processes."""
    return set(coordination.combine(sorted(numbers), lambda said: sorted(set().union(*said))))


class Vote:
    """The maximum over processes of a number, one vote per step: every process gets the same answer at the same step.

    A single process gets its own number back. Several get the answer of a few steps ago: the devices exchange votes
    between steps, and no host waits for another.
    """

    def __init__(self) -> None:
        self._in_flight: collections.deque[jax.Array] = collections.deque()
        if are_several():
            mesh = Mesh(np.array(jax.devices()), "devices")
            self._split = NamedSharding(mesh, PartitionSpec("devices"))
            self._largest = jax.jit(lambda votes: votes.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))

    def cast(self, number: int) -> int:
        """Votes for a number, at least 0; returns the answer."""
        if not are_several():
            return number
        said = jax.make_array_from_callback(
            (jax.device_count(),), self._split, lambda index: np.full(1, number, np.int32)
        )
        self._in_flight.append(self._largest(said))
        return int(self._in_flight.popleft()) if len(self._in_flight) > _VOTES_IN_FLIGHT else 0
