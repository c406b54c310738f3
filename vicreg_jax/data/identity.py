"""Identifies the images of a dataset, independent of its name and location."""

import hashlib
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vicreg_jax.data.dataset import Dataset

_THREADS = 32  # on a network disk, each size takes a round trip
_CHUNK = 1000
_NO_SIZE = -1  # of a file that cannot be read


@dataclass(frozen=True, eq=False)
class Identity:
    """What the images of a dataset are.

    Attributes:
        facts: by readable name: number of images and classes, shape of the canvas, and the source's edition or
            digests of the images' names and contents.
        sizes: of the files, in bytes, in the order of the dataset; None where its images are no files.
    """

    facts: Mapping[str, Any]
    sizes: np.ndarray | None

    def record(self, unreadable: Collection[int] = ()) -> dict[str, Any]:
        """The identity as JSON holds it; the sizes of the files known as unreadable are left out."""
        if self.sizes is None:
            return dict(self.facts)
        sizes = self.sizes.copy()
        sizes[sorted(unreadable)] = _NO_SIZE
        return {**self.facts, "file sizes": _hex(hashlib.sha256(sizes.tobytes()))}


def identify(dataset: Dataset) -> Identity:
    """The identity of a dataset, as it is now.

    Files are known by their names below the folder that holds all of them, and by their sizes; images in memory by
    their pixels and labels; a dataset of tfds by its version, and by the number and bytes of its examples; records in
    large files by the names of the files and by what their index says.
    """
    facts: dict[str, Any] = {
        "images": len(dataset),
        "classes": dataset.num_classes,
        "pixels a side": dataset.canvas,
        "channels": dataset.channels,
    }
    content, paths = _content(dataset)
    return Identity(facts | content, _sizes(paths) if paths else None)


def content_of(dataset: Dataset) -> dict[str, str]:
    """The edition of a dataset, or a digest of its file names or of its pixels and labels, under that name."""
    return _content(dataset)[0]


def changed_facts(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """A phrase on each entry of two records that differs, such as `49 images instead of 50` and `other file names`."""
    return [
        f"other {name}" if isinstance(now.get(name, ""), str) else f"{now[name]} {name} instead of {before.get(name)}"
        for name in [*now, *(before.keys() - now.keys())]
        if now.get(name) != before.get(name)
    ]


def _content(dataset: Dataset) -> tuple[dict[str, str], list[bytes]]:
    """See `content_of`; and the paths of the files, none where the images are no files."""
    if dataset.edition is not None:
        return {"edition": dataset.edition}, []
    names, pixels, paths = hashlib.sha256(), hashlib.sha256(), []
    for image, label in (dataset.source[index] for index in range(len(dataset))):
        if isinstance(image, Path):
            paths.append(os.fsencode(image))
        else:
            pixels.update(bytes(image) + b"%d" % label)  # type: ignore[arg-type]  # no Canvas: a store has an edition
    if not paths:
        return {"pixels and labels": _hex(pixels)}, []
    folder = os.path.commonpath([os.path.dirname(path) for path in (min(paths), max(paths))])
    for path in paths:
        names.update(path[len(folder) :] + b"\0")
    labels = {} if dataset.labels_digest is None else {"labels": dataset.labels_digest}
    return {"file names": _hex(names)} | labels, paths


def _sizes(paths: list[bytes]) -> np.ndarray:
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as threads:
        return np.concatenate(list(threads.map(_sizes_of_chunk, chunks)))


def _sizes_of_chunk(paths: list[bytes]) -> np.ndarray:
    return np.array([_size(path) for path in paths], np.int64)


def _size(path: bytes) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return _NO_SIZE


def _hex(digest: Any) -> str:
    return digest.hexdigest()[:32]
