"""A prepared store: every image decoded and stretched once, so that an epoch only reads.

    STORE/store.json          what is in it
    STORE/train-00000.bin     the images of a shard, one after the other
    STORE/train-00000.npy     where each of them lies, `ENTRY` `[images]`; written when the shard is complete

Images are in the order of the dataset that they come from, so batches hold the same images. `prepare_store` writes it.
An image is one read at a known place; one of an ArrayRecord file takes several times as long.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vicreg_jax.data.collection import Canvas, Collection, LabeledImage
from vicreg_jax.data.readers import FileReader
from vicreg_jax.data.records import mark_of

ENTRY = np.dtype(
    [
        ("offset", np.int64),  # in its shard
        ("size", np.int64),  # in bytes; 0: the image could not be read
        ("digest", np.uint64),  # of these bytes
        ("aspect_ratio", np.float64),  # of the original image
        ("label", np.int32),
    ]
)
DESCRIPTION = "store.json"
ENCODINGS = ("jpeg", "raw")
VERSION = 1


def shard_files(directory: Path, split: str, number: int) -> tuple[Path, Path]:
    """The images of a shard, and their index."""
    stem = f"{split}-{number:05d}"
    return directory / f"{stem}.bin", directory / f"{stem}.npy"


class StoredImages(Sequence):
    """The canvases of one split, and their labels."""

    def __init__(self, reader: FileReader, shards: np.ndarray, entries: np.ndarray, shape: tuple[int, ...] | None):
        """Reads nothing yet.

        Args:
            reader: of the shards.
            shards: the number of the shard of each image, `[n]`.
            entries: `ENTRY` `[n]`.
            shape: of each image of uint8 pixels; None: they are JPEG files.
        """
        self._reader, self._shards, self._entries, self._shape = reader, shards, entries, shape

    def __len__(self) -> int:
        """Number of images."""
        return len(self._entries)

    def __getitem__(self, index: Any) -> LabeledImage:
        """Image `index` and its label.

        Raises:
            ValueError: it could not be read when the store was prepared.
        """
        entry = self._entries[index]
        data = self._reader.read(int(self._shards[index]), int(entry["offset"]), int(entry["size"]))
        if not data:
            raise ValueError(f"index must be that of a readable image; got {index}")
        image = data if self._shape is None else np.frombuffer(data, np.uint8).reshape(self._shape)
        return Canvas(image, float(entry["aspect_ratio"])), int(entry["label"])


def open_store(directory: str | None) -> Collection:
    """Opens a store.

    Args:
        directory: that `prepare_store` has written.

    Raises:
        ValueError: there is no complete store, or a shard is missing, truncated or of another store.
    """
    if directory is None:
        raise ValueError("manual_dir must be the directory of a store when name is 'store'; got None")
    root = Path(directory)
    try:
        description = json.loads((root / DESCRIPTION).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"manual_dir must be the directory of a store (python -m vicreg_jax.data.prepare NAME --store=DIR); "
            f"got {directory!r} (looked for {(root / DESCRIPTION).absolute()})"
        ) from error
    if description["version"] != VERSION:
        raise ValueError(
            f"manual_dir must hold a store of version {VERSION}; got {directory!r} of {description['version']}"
        )
    side, channels = description["side"], description["channels"]
    shape = (side, side, channels) if description["encoding"] == "raw" else None
    value_range = description["value_range"]
    parts = {split: _open_split(root, split, count, shape) for split, count in description["shards"].items()}
    return Collection(
        splits={name: parts[split] for name, split in description["splits"].items()},
        channels=channels,
        side=side,
        class_names=None if description["class_names"] is None else tuple(description["class_names"]),
        split_rule=description["split_rule"],
        edition=f"store {description['digest']}",
        value_range=None if value_range is None else tuple(value_range),
        notes=tuple(description["notes"]),
    )


def _open_split(root: Path, split: str, count: int, shape: tuple[int, ...] | None) -> StoredImages:
    files, marks, indexes = [], [], []
    for number in range(count):
        images, index = shard_files(root, split, number)
        entries = read_index(index)
        if entries is None:
            raise ValueError(f"manual_dir must be a complete store; got {str(index)!r}, which cannot be read")
        mark = mark_of(images, "manual_dir")
        if mark[0] != entries["size"].sum():
            raise ValueError(
                f"manual_dir must hold whole shards; got {str(images)!r} of {mark[0]} instead of "
                f"{entries['size'].sum()} bytes"
            )
        files.append(images)
        marks.append(mark)
        indexes.append(entries)
    shards = np.repeat(np.arange(count, dtype=np.int32), [len(entries) for entries in indexes])
    return StoredImages(FileReader(files, marks, "manual_dir"), shards, np.concatenate(indexes), shape)


def read_index(file: Path) -> np.ndarray | None:
    """The index of a shard, `ENTRY` `[images]`; None if it is not there, or damaged."""
    try:
        entries: np.ndarray = np.load(file)
    except (OSError, ValueError, EOFError):
        return None
    return entries if entries.dtype == ENTRY else None
