"""SIGTERM asks a run to leave: in the train loop when the state is saved, else at once. A second one just ends it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

import jax

from vicreg_jax.errors import Preempted

_MESSAGE = "asked to leave; the same command goes on from the last checkpoint"


class Preemption:
    """Listens for SIGTERM. Use as a context manager around a run; the handler of before comes back afterwards."""

    def __init__(self) -> None:
        self._received = False
        self._deferred = False
        # Of several processes, jax.distributed's own service sees the signal of any one and names a step for all.
        self._is_alone = jax.process_count() == 1

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While this lasts a SIGTERM is noted, for `asked_to_leave`; `Preempted` is raised at its end at the latest."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self._received:
            raise Preempted(_MESSAGE)

    def asked_to_leave(self, step: int) -> bool:
        """Whether to save and leave after `step`; the same answer in every process."""
        if not self._is_alone:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self._received

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if not self._deferred:
            raise Preempted(_MESSAGE)

    def __enter__(self) -> "Preemption":
        if self._is_alone:
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_alone:
            signal.signal(signal.SIGTERM, self._before)
