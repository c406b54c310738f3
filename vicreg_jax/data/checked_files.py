"""Remembers what is known about files for as long as their size and modification time stay the same."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from vicreg_jax.data.whole_file import replaced_file

Info = TypeVar("Info", bound=tuple)

Mark = tuple[int, int]
"""The size of a file, and its modification time in nanoseconds."""

_Entries = dict[str, tuple[Mark, list[Any]]]  # by file

_in_this_process: dict[str, _Entries] = {}


class CheckedFiles(Generic[Info]):
    """Remembers a tuple of numbers and strings for each file below a folder.

    It only saves time: what cannot be read back counts as unknown, and what cannot be written is dropped.
    """

    def __init__(self, root: Path, version: str, make: Callable[..., Info], cache_dir: str | Path | None):
        """Reads what is known.

        Args:
            root: the folder.
            version: of the check; findings of other versions are ignored.
            make: takes the values of the tuple.
            cache_dir: where the memory is kept; None: in this process only.
        """
        self._root, self._make = root, make
        self._name = hashlib.sha256(os.fsencode(f"{version} {os.path.realpath(root)}")).hexdigest()[:32]
        self._path = None if cache_dir is None else Path(cache_dir) / f"{self._name}.json"
        if self._name not in _in_this_process and self._path is not None:
            with contextlib.suppress(OSError, ValueError):
                _in_this_process[self._name] = json.loads(self._path.read_text())
        self._entries = _in_this_process.get(self._name, {})

    def mark(self, file: str) -> Mark | None:
        """The size and the modification time of a file; None if it cannot be accessed."""
        try:
            status = os.stat(self._root / file)
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def get(self, file: str, mark: Mark | None) -> Info | None:
        """What is known of a file with this mark; None if nothing is."""
        try:
            known, values = self._entries[file]
            return self._make(*values) if mark is not None and mark == tuple(known) else None
        except (KeyError, TypeError, ValueError):
            return None

    def remember(self, infos: Mapping[str, tuple[Mark | None, Info]], *, on_disk: bool) -> None:
        """Replaces what is known.

        Args:
            infos: by file, with the mark that the file had before it was checked.
            on_disk: whether to write a file too.
        """
        entries = {file: (mark, list(info)) for file, (mark, info) in infos.items() if mark is not None}
        self._entries = _in_this_process[self._name] = entries
        if self._path is not None and on_disk:
            with contextlib.suppress(OSError), replaced_file(self._path) as file:
                file.write(json.dumps(entries).encode())
