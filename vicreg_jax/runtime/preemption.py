"""Preemption by SIGTERM or Ctrl-C: the train loop saves a checkpoint first, other code ends at once."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import NoReturn

from vicreg_jax.runtime.errors import Interrupted, Preempted
from vicreg_jax.runtime.processes import are_several

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Signals this close together count as one: schedulers signal every process, and launchers forward signals.
_SECONDS_OF_ONE = 0.3
_EXIT_CODES = {signal.SIGTERM: Preempted.exit_code, signal.SIGINT: Interrupted.exit_code}


def end_run(number: int, message: str) -> NoReturn:
    """Raises what ends a run on that signal: `Interrupted` on SIGINT, else `Preempted`."""
    raise (Interrupted if number == signal.SIGINT else Preempted)(message)


class Preemption:
    """Listens for SIGTERM and SIGINT. Use as a context manager around a run.

    A second signal ends the process at once, even while it waits for a device or a compiler. If no signal came, the
    previous handlers are restored on exit.
    """

    def __init__(self) -> None:
        # One of several processes cannot end alone: the others would wait for it.
        self._deferred = are_several()
        self._received = 0

    @property
    def received(self) -> int:
        """The number of the signal received; 0 for none."""
        return self._received

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal is only recorded as `received`; on exit it takes effect."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before
        if self._received and not self._deferred:
            self._end()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            return  # `_watch` handles the second signal
        self._received = number
        if not self._deferred:
            self._end()

    def _end(self) -> NoReturn:
        end_run(self._received, "preempted: rerun the same command to resume from the last checkpoint")

    def _watch(self, signals: socket.socket) -> None:
        # Python's handlers wait until the main thread returns from the device; this thread does not.
        first = None
        with signals:
            while number := signals.recv(1):
                now = time.monotonic()
                if number[0] not in SIGNALS:
                    continue
                if first is None:
                    first = now
                elif now - first > _SECONDS_OF_ONE:
                    print("stopped at once; rerun the same command to resume from the last checkpoint", file=sys.stderr)
                    os._exit(_EXIT_CODES[signal.Signals(number[0])])

    def __enter__(self) -> "Preemption":
        ours, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        self._thread = threading.Thread(target=self._watch, args=(ours,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._received:
            return  # `_watch` still answers a second signal while the process ends
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._wakeup.close()
        self._thread.join()
