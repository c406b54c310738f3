"""One split of a dataset: images by index, each on a square canvas, with its original aspect ratio."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vicreg_jax.data.collection import MAX_PIXELS, LabeledImage, UnreadableImagesError
from vicreg_jax.data.images import decode_into
from vicreg_jax.data.names import readable

# A hundred unreadable images in a row are not a few bad files: the disk is gone.
_MAX_UNREADABLE_IN_A_ROW = 100

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images by index.

    Attributes:
        name: the dataset's name, as passed to `load_dataset`.
        split: the split, such as 'train' or 'train[:90%]'.
        source: image and label by index; the label -1 marks an unlabeled image.
        canvas: side in pixels of the square that every image is stretched to.
        channels: number of channels of the canvas.
        class_names: by label; None if the dataset is unlabeled.
        max_unreadable: largest fraction of unreadable images that is tolerated.
        max_pixels: of an image; a larger one counts as unreadable.
        value_range: the values that become 0 and 255 in images of more than 8 bits; None: the full range of 16 bits.
        notes: what was left out and why, for people.
        warnings: sentences on images that lose their contrast.
        split_rule: which images are `train` and `test`, for people; None where the source says it itself.
        parts: for each part of the split, the name of the source's split and the range of its images.
        edition, labels_digest: see `Collection`.
        unreadable: indices of the unreadable images found so far; the next readable image replaces each.
    """

    name: str
    split: str
    source: Sequence[LabeledImage]
    canvas: int
    channels: int
    class_names: tuple[str, ...] | None = None
    max_unreadable: float = 1.0
    max_pixels: int = MAX_PIXELS
    value_range: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    split_rule: str | None = None
    parts: tuple[tuple[str, range], ...] = ()
    edition: str | None = None
    labels_digest: str | None = None
    unreadable: set[int] = dataclasses.field(default_factory=set)

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None if the dataset is unlabeled."""
        return None if self.class_names is None else len(self.class_names)

    @property
    def decoded_bytes(self) -> int:
        """Size in bytes of all decoded images."""
        return len(self) * self.canvas**2 * self.channels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.source)

    def shared_images(self, other: "Dataset") -> int:
        """The number of images that are also in another split of the same source."""
        return sum(
            len(range(max(ours.start, theirs.start), min(ours.stop, theirs.stop)))
            for our_name, ours in self.parts
            for their_name, theirs in other.parts
            if our_name == their_name
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Decodes the image at `index`.

        Returns:
            `image` uint8 `[canvas, canvas, channels]`, `aspect_ratio` float32 (width / height of the original
            image) and `label` int32 (-1: unlabeled).

        Raises:
            UnreadableImagesError: too many images cannot be read; see `read` and `note`.
        """
        example, skipped = self.read(index)
        self.note(index, skipped)
        return example

    def read(self, index: int, pixels: np.ndarray | None = None) -> tuple[dict[str, Any], int]:
        """Decodes the first readable image at `index` or after it.

        Args:
            index: of the image.
            pixels: where to decode it, uint8 `[canvas, canvas, channels]`, contiguous; None: a new array.

        Returns:
            The example, and the number of unreadable images skipped before it.

        Raises:
            UnreadableImagesError: a hundred images in a row cannot be read, or the files that hold them have changed.
        """
        index = range(len(self))[index]
        if pixels is None:
            pixels = np.empty((self.canvas, self.canvas, self.channels), np.uint8)
        for skipped in range(_MAX_UNREADABLE_IN_A_ROW):
            try:
                image, label = self.source[(index + skipped) % len(self)]
                aspect_ratio = decode_into(pixels, image, self.value_range, self.max_pixels)
            except UnreadableImagesError:  # the files that hold the images have changed
                raise
            except Exception:  # Pillow's plugins, and readers of records, raise errors of all kinds
                continue
            example = {"image": pixels, "aspect_ratio": np.float32(aspect_ratio), "label": np.int32(label)}
            return example, skipped
        raise UnreadableImagesError(
            f"name must be a dataset whose images can be read; got {self.name!r}, where "
            f"{_MAX_UNREADABLE_IN_A_ROW} images in a row cannot be read, from index {index} on"
        )

    def note(self, index: int, skipped: int) -> None:
        """Logs and counts the images that `read` skipped, perhaps in another process.

        Raises:
            UnreadableImagesError: the fraction of unreadable images exceeds `max_unreadable`.
        """
        for unreadable in {(index + offset) % len(self) for offset in range(skipped)} - self.unreadable:
            self.unreadable.add(unreadable)
            _logger.warning("%s cannot be read; the next readable image replaces it", self.name_of(unreadable))
        if len(self.unreadable) > self.max_unreadable * len(self):
            raise UnreadableImagesError(
                f"max_unreadable must be at least the fraction of unreadable images; got {self.max_unreadable}, "
                f"but {len(self.unreadable)} of the {len(self)} images of {self.name!r} cannot be read "
                f"(last: {self.name_of((index + skipped - 1) % len(self))})"
            )

    def name_of(self, index: int) -> str:
        """The path of the image file, or else the image's index and split."""
        number = f"image {index} of {self.name} {self.split}"
        try:
            image, _ = self.source[index]
        except Exception:  # a damaged record
            return number
        return readable(image) if isinstance(image, Path) else number
