"""Writes labeled image files in the formats that the data room reads.

Each writer makes a whole dataset with the split `train` in an empty folder.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

SHARD_IMAGES = 1000
TFDS_NAME, TFDS_VERSION = "imagenet2012", "5.1.0"


class Example(NamedTuple):
    """An image file, its name without a suffix, and its label."""

    name: str
    label: int
    image: bytes


def class_name(label: int) -> str:
    """The folder of a class, in the form of ImageNet's."""
    return f"n{label:08}"


def write_folder(folder: Path, examples: Iterable[Example]) -> None:
    """`train/CLASS/NAME.JPEG`; files that are there stay."""
    for name, label, image in examples:
        path = folder / "train" / class_name(label) / f"{name}.JPEG"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_bytes(image)
            partial.rename(path)


WRITERS: dict[str, Callable[[Path, Iterable[Example]], None]] = {}
