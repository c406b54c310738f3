"""The IDX files of MNIST and the sets made in its image: train-images-idx3-ubyte and its three companions."""

import dataclasses
import gzip
import hashlib
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vicreg_jax.runtime.errors import InputError

_PREFIXES = {"train": "train", "test": "t10k"}
_MAGIC = {"images": 0x0803, "labels": 0x0801}  # unsigned bytes, of 3 dimensions and of 1


@dataclasses.dataclass(frozen=True)
class IdxDirectory:
    """IDX files found in one directory.

    Attributes:
      path: of the directory.
      splits: split -> the files of its images and its labels; no split has labels unless all have.
      image_shape: height and width.
      num_classes: one more than the largest label; None without labels.
      digest: of the files' contents.
    """

    path: Path
    splits: dict[str, tuple[Path, Path | None]]
    image_shape: tuple[int, int]
    num_classes: int | None
    digest: str

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Images uint8 `[n, height, width]` and labels uint8 `[n]`, if there are labels.

        Raises:
          InputError: naming the file that is damaged, or does not go with the other.
        """
        images_file, labels_file = self.splits[split]
        images = read_idx(images_file, "images")
        if images.shape[1:] != self.image_shape:
            raise InputError(
                f"config.data.manual_dir: {images_file} has images of {images.shape[1:]} pixels, "
                f"those of the training split have {self.image_shape}"
            )
        if labels_file is None:
            return images, None
        labels = read_idx(labels_file, "labels")
        if len(labels) != len(images):
            raise InputError(
                f"config.data.manual_dir: {labels_file} has {len(labels)} labels, "
                f"{images_file.name} {len(images)} images"
            )
        return images, labels


def find_idx_files(directory: str | Path) -> IdxDirectory | None:
    """The IDX files of a directory; None where it holds no training images in that format.

    Names are those of MNIST, `train-images-idx3-ubyte` or `train-images.idx3-ubyte`, plain or with `.gz`; the
    test split's begin with `t10k`. Test images and labels may be missing.

    Raises:
      InputError: naming a file whose header is not that of an IDX file.
    """
    directory = Path(directory)
    splits = {}
    for split, prefix in _PREFIXES.items():
        images = _find(directory, f"{prefix}-images", "idx3-ubyte")
        if images is not None:
            splits[split] = (images, _find(directory, f"{prefix}-labels", "idx1-ubyte"))
    if "train" not in splits:
        return None
    if any(labels is None for _, labels in splits.values()):
        splits = {split: (images, None) for split, (images, _) in splits.items()}
    files = [file for pair in splits.values() for file in pair if file is not None]
    labels = [read_idx(file, "labels") for _, file in splits.values() if file is not None]
    train_images = splits["train"][0]
    with _open(train_images) as file:
        _, height, width = _header(file, train_images, "images")
    return IdxDirectory(
        path=directory,
        splits=splits,
        image_shape=(height, width),
        num_classes=int(max(part.max() for part in labels)) + 1 if labels else None,
        digest=_digest(files),
    )


def read_idx(path: Path, content: str) -> np.ndarray:
    """The array in an IDX file of 'images' (uint8 `[n, height, width]`) or 'labels' (uint8 `[n]`).

    Raises:
      InputError: naming the file, where it is no such file, cut short or too long, or cannot be decompressed.
    """
    with _open(path) as file:
        shape = _header(file, path, content)
        data = _read(file, path)
    if len(data) != math.prod(shape):
        raise InputError(
            f"config.data.manual_dir: {path} holds {len(data)} bytes of data, "
            f"its header says {math.prod(shape)} {shape}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _find(directory: Path, stem: str, kind: str) -> Path | None:
    names = [f"{stem}{separator}{kind}{suffix}" for suffix in ("", ".gz") for separator in "-."]
    return next((directory / name for name in names if (directory / name).is_file()), None)


def _open(path: Path) -> BinaryIO:
    try:
        return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise InputError(f"config.data.manual_dir: {path} cannot be read ({error.strerror})") from error


def _read(file: BinaryIO, path: Path, size: int = -1) -> bytes:
    try:
        return file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"config.data.manual_dir: {path} is damaged ({error})") from error


def _header(file: BinaryIO, path: Path, content: str) -> tuple[int, ...]:
    magic = _MAGIC[content]
    dimensions = magic & 0xFF
    words = np.frombuffer(_read(file, path, 4 * (1 + dimensions)).ljust(4 * (1 + dimensions), b"\0"), ">u4")
    if words[0] != magic:
        raise InputError(
            f"config.data.manual_dir: {path} begins with {int(words[0]):#010x}, "
            f"an IDX file of {content} with {magic:#010x}"
        )
    shape = tuple(int(word) for word in words[1:])
    if 0 in shape:
        raise InputError(f"config.data.manual_dir: {path} holds no {content}: its header says {shape}")
    return shape


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:16]
