"""Writes a store, see `vicreg_jax.data.store`; resumes where it was interrupted."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vicreg_jax.data.collection import Collection, UnreadableImagesError
from vicreg_jax.data.dataset import Dataset
from vicreg_jax.data.identity import identify
from vicreg_jax.data.images import decode_into
from vicreg_jax.data.in_flight import usable_cores
from vicreg_jax.data.load import open_split
from vicreg_jax.data.store import DESCRIPTION, ENCODINGS, ENTRY, VERSION, read_index, shard_files
from vicreg_jax.data.whole_file import replaced_file

_BEGUN = "begun.json"
_SHARD_BYTES = 256 * 2**20  # of pixels
_QUALITY = 95


@dataclass(frozen=True)
class StoreFormat:
    """How images are stored.

    Attributes:
        side: of the canvas, in pixels.
        encoding: 'jpeg' (quality 95, 4:2:0) or 'raw', the pixels themselves.
    """

    side: int
    encoding: str = "jpeg"

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"side must be at least 1; got {self.side!r}")
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}; got {self.encoding!r}")

    def encode(self, pixels: np.ndarray) -> bytes:
        """uint8 pixels `[side, side, channels]`, as the store holds them."""
        if self.encoding == "raw":
            return pixels.tobytes()
        import simplejpeg

        space = "GRAY" if pixels.shape[2] == 1 else "RGB"
        data: bytes = simplejpeg.encode_jpeg(pixels, quality=_QUALITY, colorspace=space, colorsubsampling="420")
        return data


def write_store(
    collection: Collection,
    directory: str | Path,
    store_format: StoreFormat,
    *,
    threads: int | None = None,
    report: Callable[[int, int], None] = lambda done, images: None,
) -> dict[str, int]:
    """Decodes every image of every split once, and writes it.

    A shard is read back before it counts. A store that was begun with the same images is continued. An image that
    cannot be read keeps its place: it is unreadable in the store, too.

    Args:
        collection: of `open_collection`.
        directory: of the store; created if it does not exist.
        store_format: how images are stored.
        threads: that decode and write; None: one per core.
        report: called with the number of images written so far, and of all images, in the calling thread.

    Returns:
        The number of `images`, of those that are `unreadable`, and of `bytes`.

    Raises:
        ValueError: the directory holds another store, images have an alpha channel and the encoding is 'jpeg', or the
            directory cannot be written.
    """
    if collection.channels == 4 and store_format.encoding == "jpeg":
        raise ValueError("encoding must be 'raw' for images with an alpha channel; got 'jpeg'")
    root = Path(directory)
    names: dict[int, str] = {}  # a split may have two names: the first one names its shards
    splits = {name: names.setdefault(id(images), name) for name, images in collection.splits.items()}
    datasets = {
        split: open_split(collection, "images", split, image_size=store_format.side, decode_size=store_format.side)
        for split in names.values()
    }
    per_shard = max(1, _SHARD_BYTES // (store_format.side**2 * collection.channels))
    identity = {split: identify(dataset).record() for split, dataset in datasets.items()}
    begun = {"version": VERSION, "side": store_format.side, "encoding": store_format.encoding, "images": identity}
    _begin(root, json.loads(json.dumps(begun)))
    tasks = [
        (split, number, range(start, min(start + per_shard, len(dataset))))
        for split, dataset in datasets.items()
        for number, start in enumerate(range(0, len(dataset), per_shard))
    ]
    images = sum(map(len, datasets.values()))
    digest, done, unreadable, size = hashlib.sha256(json.dumps(begun, sort_keys=True).encode()), 0, 0, 0
    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        shards = pool.map(
            lambda task: _shard(datasets[task[0]], shard_files(root, task[0], task[1]), task[2], store_format), tasks
        )
        for entries in shards:
            digest.update(entries.tobytes())
            done += len(entries)
            unreadable += int((entries["size"] == 0).sum())
            size += int(entries["size"].sum())
            report(done, images)
    description: dict[str, Any] = {
        "version": VERSION,
        "side": store_format.side,
        "channels": collection.channels,
        "encoding": store_format.encoding,
        "splits": splits,
        "shards": {split: -(-len(dataset) // per_shard) for split, dataset in datasets.items()},
        "class_names": collection.class_names,
        "split_rule": collection.split_rule,
        "notes": collection.notes,
        "value_range": next(iter(datasets.values())).value_range,
        "digest": digest.hexdigest()[:32],
    }
    with replaced_file(root / DESCRIPTION) as file:
        file.write(json.dumps(description, indent=1).encode())
    return {"images": images, "unreadable": unreadable, "bytes": size}


def _begin(root: Path, begun: dict[str, Any]) -> None:
    """Notes which images the store is for.

    Raises:
        ValueError: the directory was begun for others, or cannot be written.
    """
    note = root / _BEGUN
    try:
        if note.exists():
            if json.loads(note.read_text()) != begun:
                raise ValueError(
                    f"store must be a new directory, or one that was begun with the same images, side and encoding; "
                    f"got {str(root)!r}"
                )
            return
        if root.exists() and any(root.iterdir()):
            raise ValueError(f"store must be a new or empty directory; got {str(root)!r}")
        with replaced_file(note) as file:
            file.write(json.dumps(begun).encode())
    except OSError as error:
        raise ValueError(f"store must be a writable directory; got {str(root)!r} ({error.strerror})") from error


def _shard(dataset: Dataset, files: tuple[Path, Path], indices: range, store_format: StoreFormat) -> np.ndarray:
    """Writes a shard unless it is there; returns its index."""
    images, index = files
    entries = read_index(index)
    if entries is not None and images.exists() and images.stat().st_size == entries["size"].sum():
        return entries
    entries = np.zeros(len(indices), ENTRY)
    pixels = np.empty((dataset.canvas, dataset.canvas, dataset.channels), np.uint8)
    with replaced_file(images) as file:
        offset = 0
        for entry, position in zip(entries, indices, strict=True):
            entry["offset"] = offset
            try:
                image, entry["label"] = dataset.source[position]
                entry["aspect_ratio"] = decode_into(pixels, image, dataset.value_range, dataset.max_pixels)
                data = store_format.encode(pixels)
            except UnreadableImagesError:  # the files that hold the images have changed
                raise
            except Exception:  # of all kinds, see `decode_into`
                continue
            entry["size"], entry["digest"] = len(data), _digest(data)
            offset += file.write(data)
        os.fsync(file.fileno())
    _check(images, entries)
    with replaced_file(index) as file:
        np.save(file, entries)  # type: ignore[arg-type]
    return entries


def _check(images: Path, entries: np.ndarray) -> None:
    with images.open("rb") as file:
        for entry in entries[entries["size"] > 0]:
            if _digest(file.read(int(entry["size"]))) != entry["digest"]:
                raise OSError(f"{images} was not written as it should be; is the disk full or damaged?")


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


class ProgressLine:
    """Prints how far the preparation is, every few seconds."""

    def __init__(self, seconds: float = 5.0):
        """Starts the clock."""
        self._seconds, self._start, self._printed = seconds, time.monotonic(), 0.0
        self._at_start: int | None = None

    def __call__(self, done: int, images: int) -> None:
        """Prints a line if it is time for one."""
        now = time.monotonic()
        if self._at_start is None:
            self._at_start = done
        if done < images and now - self._printed < self._seconds:
            return
        self._printed = now
        rate = (done - self._at_start) / max(now - self._start, 1e-9)
        left = f", {(images - done) / rate / 60:.0f} min left" if rate > 0 and done < images else ""
        print(f"{done:,} of {images:,} images, {rate:.0f} images/s{left}", file=sys.stderr, flush=True)
