"""Parts of large files or of buffers, for any thread and, pickled, for any process."""

import os
import resource
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from vicreg_jax.data.checked_files import Mark
from vicreg_jax.data.collection import UnreadableImagesError


class Reader(Protocol):
    """Reads parts of numbered files or buffers."""

    def read(self, file: int, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on."""


class MemoryReader:
    """Parts of buffers."""

    def __init__(self, buffers: Sequence[np.ndarray]):
        """Keeps the buffers: uint8 `[bytes]` each."""
        self._buffers = buffers

    def read(self, file: int, offset: int, size: int) -> bytes:
        """`size` bytes of a buffer, from `offset` on."""
        return self._buffers[file][offset : offset + size].tobytes()


class FileReader:
    """Parts of files.

    A file stays open once it has been read, but only so many that the limit of the process is not in sight: ImageNet
    has as many shards as a process may open files. A pickled reader opens its files anew.
    """

    def __init__(self, files: Sequence[Path], marks: Sequence[Mark], argument: str):
        """Opens no file yet.

        Args:
            files: their paths.
            marks: size and modification time that each must still have when it is opened.
            argument: that error messages name.
        """
        self._files, self._marks, self._argument = files, marks, argument
        self._descriptors: dict[int, int] = {}
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._descriptors)

    def __reduce__(self) -> tuple:
        return FileReader, (self._files, self._marks, self._argument)

    def read(self, file: int, offset: int, size: int) -> bytes:
        """`size` bytes of a file, from `offset` on.

        Raises:
            UnreadableImagesError: the file has changed.
            OSError: the disk cannot be read there.
        """
        with self._opened(file) as descriptor:
            data = os.pread(descriptor, size, offset)
        if len(data) < size:
            raise self._changed(file)
        return data

    @contextmanager
    def _opened(self, file: int) -> Iterator[int]:
        if file in self._descriptors:
            yield self._descriptors[file]
            return
        descriptor = self._open(file)
        with self._lock:
            stays = file not in self._descriptors and len(self._descriptors) < self._limit
            if stays:
                self._descriptors[file] = descriptor
        try:
            yield descriptor
        finally:
            if not stays:
                os.close(descriptor)

    def _open(self, file: int) -> int:
        try:
            descriptor = os.open(self._files[file], os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._changed(file) from None
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != tuple(self._marks[file]):
            os.close(descriptor)
            raise self._changed(file)
        return descriptor

    def _changed(self, file: int) -> UnreadableImagesError:
        return UnreadableImagesError(
            f"{self._argument} must hold the files that were opened; got {str(self._files[file])!r}, which has changed "
            f"since; run the same command again"
        )


def _close_all(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
