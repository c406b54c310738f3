"""Datasets in MNIST's file format, IDX: train-images-idx3-ubyte and its three companions."""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vicreg_jax.data.collection import Collection
from vicreg_jax.data.in_memory import InMemoryImages

_PREFIXES = {"train": "train", "test": "t10k"}
_CHUNK = 2**20
_MAGIC = {"images": 0x0803, "labels": 0x0801}  # unsigned bytes, in 3 dimensions and in 1


def open_idx_files(directory: str | Path) -> Collection | None:
    """Reads the IDX files of a directory.

    File names are MNIST's: `train-images-idx3-ubyte` or `train-images.idx3-ubyte`, plain or with `.gz`; those of
    the test split begin with `t10k`. Test images and labels are optional. Labels are used only if every split
    has them. The classes are the numbers from 0 to the largest label.

    Returns:
        Gray images; None if the directory has no training images in this format.

    Raises:
        ValueError: a file is damaged, or does not match the others.
    """
    directory = Path(directory)
    files = {}
    for split, prefix in _PREFIXES.items():
        images_file = _find(directory, f"{prefix}-images", "idx3-ubyte")
        if images_file is not None:
            files[split] = images_file, _find(directory, f"{prefix}-labels", "idx1-ubyte")
    if "train" not in files:
        return None
    labeled = all(labels_file is not None for _, labels_file in files.values())
    arrays = {
        split: _read_split(images_file, labels_file if labeled else None)
        for split, (images_file, labels_file) in files.items()
    }
    height, width = arrays["train"][0].shape[1:]
    for split, (images, _) in arrays.items():
        if images.shape[1:] != (height, width):
            raise ValueError(
                f"manual_dir must hold images of one size; got {files[split][0]} with shape {images.shape[1:]}, "
                f"but shape {(height, width)} in the training split"
            )
    num_classes = 1 + max((int(labels.max()) for _, labels in arrays.values() if labels is not None), default=-1)
    return Collection(
        splits={
            split: InMemoryImages(split, images, labels, keys=range(len(images)))
            for split, (images, labels) in arrays.items()
        },
        channels=1,
        side=height if height == width else None,
        class_names=tuple(str(label) for label in range(num_classes)) if labeled else None,
    )


def missing_idx_files(name: str, manual_dir: str) -> ValueError:
    """The error for a `manual_dir` without IDX files, for a dataset that reads nothing else from there."""
    return ValueError(
        f"manual_dir must hold train-images-idx3-ubyte, plain or .gz, the only files that {name!r} reads from there; "
        f"got {manual_dir!r}"
    )


def read_idx(path: Path, content: str) -> np.ndarray:
    """Reads one IDX file.

    Args:
        path: of the file, compressed if it ends in `.gz`.
        content: 'images' or 'labels'.

    Returns:
        uint8 `[n, height, width]` for images, `[n]` for labels.

    Raises:
        ValueError: it is not such a file, is truncated or too long, or cannot be decompressed.
    """
    with _open(path) as file:
        shape = _header(file, path, content)
        size = math.prod(shape)
        data = _read_data(file, path, size + 1)
    if len(data) != size:
        found = f"{len(data)} bytes" if len(data) < size else "more bytes"
        raise ValueError(
            f"manual_dir must hold intact IDX files; got {path} with {found} of data, "
            f"but a header that says {size} (shape {shape})"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_split(images_file: Path, labels_file: Path | None) -> tuple[np.ndarray, np.ndarray | None]:
    images = read_idx(images_file, "images")
    if labels_file is None:
        return images, None
    labels = read_idx(labels_file, "labels")
    if len(labels) != len(images):
        raise ValueError(
            f"manual_dir must hold one label per image; got {labels_file} with {len(labels)} labels, "
            f"but {len(images)} images in {images_file.name}"
        )
    return images, labels


def _find(directory: Path, stem: str, kind: str) -> Path | None:
    names = [f"{stem}{separator}{kind}{suffix}" for suffix in ("", ".gz") for separator in "-."]
    return next((directory / name for name in names if (directory / name).is_file()), None)


def _open(path: Path) -> BinaryIO:
    try:
        return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise ValueError(f"manual_dir must hold readable IDX files; got {path} ({error.strerror})") from error


def _read_data(file: BinaryIO, path: Path, size: int) -> bytearray:
    """Reads up to `size` bytes in chunks, so that a header with a wrong shape allocates no memory."""
    data = bytearray()
    while len(data) < size and (chunk := _read(file, path, min(_CHUNK, size - len(data)))):
        data += chunk
    return data


def _read(file: BinaryIO, path: Path, size: int) -> bytes:
    try:
        return file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"manual_dir must hold intact IDX files; got {path}, which is damaged ({error})") from error


def _header(file: BinaryIO, path: Path, content: str) -> tuple[int, ...]:
    """Reads the header of an IDX file; returns the shape of its array."""
    magic = _MAGIC[content]
    dimensions = magic & 0xFF
    words = np.frombuffer(_read(file, path, 4 * (1 + dimensions)).ljust(4 * (1 + dimensions), b"\0"), ">u4")
    if words[0] != magic:
        raise ValueError(
            f"manual_dir must hold IDX files of {content} that begin with {magic:#010x}; "
            f"got {path}, which begins with {int(words[0]):#010x}"
        )
    shape = tuple(int(word) for word in words[1:])
    if 0 in shape:
        raise ValueError(f"manual_dir must hold IDX files with {content}; got {path} with shape {shape}")
    return shape
