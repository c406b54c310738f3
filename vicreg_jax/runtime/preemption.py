"""Asked to leave, by SIGTERM or Ctrl-C: in the train loop when the state is saved, elsewhere at once."""

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
# A scheduler that signals every process, and a loop that hands the signal on, mean it once.
_SECONDS_OF_ONE = 0.3
_EXIT_CODES = {signal.SIGTERM: Preempted.exit_code, signal.SIGINT: Interrupted.exit_code}


def leave(number: int, message: str) -> NoReturn:
    """Raises what a run ends with that was asked to leave by that signal."""
    raise (Interrupted if number == signal.SIGINT else Preempted)(message)


class Preemption:
    """Listens for SIGTERM and SIGINT. Use as a context manager around a run.

    The second signal ends the process at once, also while it waits for a device or a compiler. If none came, what
    listened before comes back afterwards.
    """

    def __init__(self) -> None:
        # One of several processes cannot leave alone: the others would wait for it.
        self._deferred = are_several()
        self._received = 0

    @property
    def received(self) -> int:
        """The number of the signal that asked to leave; 0: none did."""
        return self._received

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While this lasts a signal is noted, as `received`; it takes effect at the end at the latest."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before
        if self._received and not self._deferred:
            self._leave()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            return  # what the first one asked for is being done; `_watch` sees to the second
        self._received = number
        if not self._deferred:
            self._leave()

    def _leave(self) -> NoReturn:
        leave(self._received, "asked to leave; the same command goes on from the last checkpoint")

    def _watch(self, signals: socket.socket) -> None:
        # Python's handlers wait until the main thread is back from the device; this thread does not.
        first = None
        with signals:
            while number := signals.recv(1):
                now = time.monotonic()
                if number[0] not in SIGNALS:
                    continue
                if first is None:
                    first = now
                elif now - first > _SECONDS_OF_ONE:
                    print("left at once; the same command goes on from the last checkpoint", file=sys.stderr)
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
            return  # a second signal, while the process ends, is still answered by `_watch`
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._wakeup.close()
        self._thread.join()
