"""How much the threads of a process decode at once."""

import contextlib
import os
import threading
from collections.abc import Iterator


class PixelBudget:
    """Lets threads decode while their images have at most `pixels` pixels in total; a larger image is decoded alone."""

    def __init__(self, pixels: int):
        self._free = self._all = pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Waits until the image fits."""
        pixels = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: pixels <= self._free)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
