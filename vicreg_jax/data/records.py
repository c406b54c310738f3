"""Records in large files: where each lies is found once, and kept.

An index is one NumPy array, with no Python object per record: that of ImageNet takes 41 MB.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vicreg_jax.data.checked_files import Mark
from vicreg_jax.data.collection import LabeledImage
from vicreg_jax.data.held_out import by_digest, with_test
from vicreg_jax.data.readers import FileReader, Reader
from vicreg_jax.data.whole_file import replaced_file

RECORD = np.dtype(
    [
        ("offset", np.int64),  # in its file
        ("size", np.int64),  # in bytes
        ("digest", np.uint64),  # of its name or its content
        ("file", np.int32),
        ("label", np.int32),
    ]
)
"""An entry of an index."""

Scan = Callable[[Path], np.ndarray]
"""Finds the records of one file, `RECORD` `[n]` without `file`; raises ValueError where it is damaged."""

_THREADS = 16  # each waits for the disk most of the time


class Records(Sequence):
    """The bytes of each record."""

    def __init__(self, reader: Reader, table: np.ndarray):
        """Reads nothing yet.

        Args:
            reader: of the files or buffers that hold them.
            table: `RECORD` `[n]`.
        """
        self._reader, self.table = reader, table

    def __len__(self) -> int:
        """Number of records."""
        return len(self.table)

    def __getitem__(self, index: Any) -> bytes:
        """Record `index`."""
        record = self.table[index]
        return self._reader.read(int(record["file"]), int(record["offset"]), int(record["size"]))

    def select(self, rows: np.ndarray) -> "Records":
        """The records at these indices, or where this mask is True, in the same files."""
        return Records(self._reader, self.table[rows])


class LabeledRecords(Sequence):
    """Records that are images, with the labels of the index."""

    def __init__(self, records: Records, shape: tuple[int, ...] | None = None):
        """Reads nothing yet.

        Args:
            records: the images.
            shape: of each image of uint8 pixels; None: they are image files.
        """
        self.records, self._shape = records, shape

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    def __getitem__(self, index: Any) -> LabeledImage:
        """The bytes or the pixels of image `index`, and its label."""
        image, label = self.records[index], int(self.records.table["label"][index])
        return image if self._shape is None else np.frombuffer(image, np.uint8).reshape(self._shape), label


def labeled_splits(records: Mapping[str, Records], shape: tuple[int, ...] | None = None) -> dict[str, LabeledRecords]:
    """The splits of a dataset, each in the order of the records' digests.

    Args:
        records: by the names of `held_out.split_named`; `train` alone is split by digest.
        shape: see `LabeledRecords`.
    """
    if records.keys() == {"train"}:
        rows = by_digest(records["train"].table["digest"])
        parts = {split: records["train"].select(rows[split]) for split in rows}
    else:
        parts = {
            split: found.select(np.argsort(found.table["digest"], kind="stable")) for split, found in records.items()
        }
    return with_test({split: LabeledRecords(part, shape) for split, part in parts.items()})


def open_records(
    files: Sequence[Path],
    scan: Scan,
    *,
    version: str,
    argument: str,
    cache_dir: str | Path | None = None,
) -> Records:
    """Opens the records of all files, in the order of the files. Finds them unless a valid index is kept.

    Args:
        files: their paths.
        scan: finds the records of a file; called in threads.
        version: of the format and its scan; an index of another one is ignored.
        argument: that error messages name.
        cache_dir: where the index is kept; None: nowhere.

    Raises:
        ValueError: a file cannot be read, or as `scan`.
    """
    marks = [mark_of(file, argument) for file in files]

    def build() -> np.ndarray:
        with ThreadPoolExecutor(_THREADS) as threads:
            parts = list(threads.map(scan, files))
        for number, part in enumerate(parts):
            part["file"] = number
        return np.concatenate([np.zeros(0, RECORD), *parts])

    kept = None if cache_dir is None else Path(cache_dir) / f"{name_of_index(files, version)}.npz"
    return Records(FileReader(files, marks, argument), kept_index(kept, marks, build))


def kept_index(
    path: Path | None,
    marks: Sequence[Mark],
    build: Callable[[], np.ndarray],
    is_valid: Callable[[np.ndarray], bool] = lambda index: True,
) -> np.ndarray:
    """The index in a file, if it is that of files with these marks; otherwise builds it, and replaces the file.

    Args:
        path: of the file; None: builds it.
        marks: sizes and modification times of the files, in order.
        build: makes `RECORD` `[n]`.
        is_valid: whether an index of these files may be used.
    """
    expected = np.array(marks, np.int64).reshape(-1, 2)
    if path is not None:
        # A damaged file raises errors of all kinds.
        with contextlib.suppress(Exception), path.open("rb") as file, np.load(file) as kept:
            index = kept["index"]
            if np.array_equal(kept["marks"], expected) and index.dtype == RECORD and is_valid(index):
                return index
    index = build()
    if path is not None:
        with contextlib.suppress(OSError), replaced_file(path) as new_file:
            np.savez(new_file, marks=expected, index=index)  # type: ignore[arg-type]
    return index


def name_of_index(files: Sequence[Path], version: str) -> str:
    """A name for the index of these files, wherever they are spelled from."""
    paths = [os.fsencode(os.path.realpath(file)) for file in files]
    return hashlib.sha256(b"\0".join([version.encode(), *paths])).hexdigest()[:32]


def edition_of(names: Sequence[str], records: Sequence[Records]) -> str:
    """A digest of the names of the files, and of their indexes."""
    digest = hashlib.sha256(os.fsencode("\0".join(names)))
    for part in records:
        digest.update(part.table.tobytes())
    return digest.hexdigest()[:32]


def mark_of(file: Path, argument: str) -> Mark:
    """The size and the modification time of a file.

    Raises:
        ValueError: it cannot be accessed.
    """
    try:
        status = os.stat(file)
    except OSError as error:
        raise ValueError(f"{argument} must hold readable files; got {str(file)!r} ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns
