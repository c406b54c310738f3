"""SIGTERM asks a run to save and leave; a second one is obeyed at once."""

import signal
from types import FrameType, TracebackType

import jax


class PreemptionWatch:
    """Notes a SIGTERM. Use as a context manager around the loop; the handler of before comes back afterwards."""

    def __init__(self) -> None:
        self._received = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def asked_to_leave(self, step: int) -> bool:
        """Whether to save and leave after `step`; the same answer in every process."""
        if jax.process_count() > 1:
            # jax.distributed's own service sees the signal of any one process and names a step for all.
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self._received

    def __enter__(self) -> "PreemptionWatch":
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._previous)
