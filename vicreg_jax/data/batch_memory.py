"""Memory for the batches of a stream, which is used again when nothing refers to it any more."""

import math
import weakref

import numpy as np


class BatchMemory:
    """Lends uint8 arrays of one shape.

    The operating system clears new memory page by page, which takes longer than to read an image file.
    """

    def __init__(self, shape: tuple[int, ...]):
        """Takes no memory yet."""
        self._shape = shape
        self._free: list[np.ndarray] = []

    def take(self) -> np.ndarray:
        """An array of any content, for any thread.

        It begins at a multiple of 64 bytes: on a CPU, JAX then takes it over without a copy. Its memory is lent again
        when the array is gone, and with it every view of it and every JAX array that shares it.
        """
        size = math.prod(self._shape)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(size + 63, np.uint8)
        # Views refer to the last array before what is no array: to `lent`, because `data` is a memoryview.
        lent = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(lent, self._free.append, memory).atexit = False
        start = -memory.ctypes.data % 64
        return lent[start : start + size].reshape(self._shape)
