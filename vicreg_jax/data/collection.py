"""A dataset as its source provides it, before a split and a canvas are chosen."""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NO_LABEL = -1
MAX_PIXELS = 178_956_970  # of an image, by default: Pillow's own limit


class Canvas(NamedTuple):
    """An image that has been stretched to a square.

    Attributes:
        image: the bytes of an image file, or uint8 pixels `[side, side, channels]`.
        aspect_ratio: width / height of the original image.
    """

    image: bytes | np.ndarray
    aspect_ratio: float


Image = bytes | Path | np.ndarray
"""The bytes of an image file, its path, or uint8 pixels `[height, width]` (gray) or `[height, width, channels]`."""

LabeledImage = tuple[Image | Canvas, int]
"""An image and its label, `NO_LABEL` if it is unlabeled."""


class UnreadableImagesError(RuntimeError):
    """Too many images cannot be read, or the files that hold them have changed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """All splits of a dataset; every kind of source is opened as one.

    Attributes:
        splits: images and labels by index, for each split.
        channels: of every image: 1, 3 or 4.
        side: in pixels, if all images are squares of one size; None otherwise.
        class_names: by label; None if the dataset is unlabeled.
        split_rule: which images are `train` and `test`, for people; None where the source says it itself.
        edition: version and size of the data, where the source states them; None: the images themselves identify it.
        labels_digest: of the labels, where a file states them; None: the images' names or the edition do.
        deep: a sample of the images with more than 8 bits per channel.
        value_range: the values that have become 0 and 255 in images that had more than 8 bits; None: there were none.
        notes: what was left out and why, for people.
        max_pixels: of an image; a larger one counts as unreadable.
    """

    splits: Mapping[str, Sequence[LabeledImage]]
    channels: int
    side: int | None
    class_names: tuple[str, ...] | None
    split_rule: str | None = None
    edition: str | None = None
    labels_digest: str | None = None
    deep: Sequence[Image] = ()
    value_range: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS


class Selection(Sequence):
    """Ranges of several sequences, concatenated."""

    def __init__(self, parts: Sequence[tuple[Sequence[Any], range]]):
        """Concatenates the elements of each sequence at the indices of its range."""
        self._parts = [(sequence, indices) for sequence, indices in parts if len(indices)]
        self._ends = list(itertools.accumulate(len(indices) for _, indices in self._parts))

    def __len__(self) -> int:
        """Total length of the ranges."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        """Element `index`, an integer; a negative one counts from the end."""
        index = range(len(self))[index]
        part = bisect.bisect_right(self._ends, index)
        sequence, indices = self._parts[part]
        return sequence[indices[index - self._ends[part]]]
