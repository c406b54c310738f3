"""One split of a data set: images by index, each as a square canvas with the shape it had."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vicreg_jax.data.images import decode_to_canvas
from vicreg_jax.runtime.errors import InputError

NO_LABEL = -1
# So many unreadable images in a row are not a few bad files but a disk that is gone.
_MOST_UNREADABLE_IN_A_ROW = 100


class UnreadableImagesError(RuntimeError):
    """More images than a run may skip turned out to be unreadable."""


_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images by index.

    Attributes:
      name: as the config gave it.
      split: as the config gave it, such as 'train' or 'train[:90%]'.
      source: encoded image (bytes, or the file's path) and label by index; a label of -1 is none.
      canvas: side in pixels of the square that every image is stretched to.
      channels: of the canvas.
      class_names: by label; None where the set has no labels.
      max_unreadable: share of the images that may turn out unreadable.
      unreadable: indices of those met so far; the next image that can be read stands in the place of each.
    """

    name: str
    split: str
    source: Sequence[tuple[bytes | Path, int]]
    canvas: int
    channels: int
    class_names: tuple[str, ...] | None = None
    max_unreadable: float = 1.0
    unreadable: set[int] = dataclasses.field(default_factory=set)

    @property
    def num_classes(self) -> int | None:
        """How many classes the labels tell apart; None where there are no labels."""
        return None if self.class_names is None else len(self.class_names)

    @property
    def decoded_bytes(self) -> int:
        """What all images take, decoded."""
        return len(self) * self.canvas**2 * self.channels

    def __len__(self) -> int:
        """How many images."""
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The image at `index`, decoded.

        Returns:
          `image` uint8 `[canvas, canvas, channels]`, `aspect_ratio` float32 (width / height of the image as
          it was), `label` int32 (-1: none).

        Raises:
          as `read` and `note`.
        """
        example, passed_over = self.read(index)
        self.note(index, passed_over)
        return example

    def read(self, index: int) -> tuple[dict[str, Any], int]:
        """The first image from `index` on that can be read, and how many that cannot were passed over.

        Raises:
          InputError: a hundred in a row cannot be read.
        """
        index = range(len(self))[index]
        for passed_over in range(_MOST_UNREADABLE_IN_A_ROW):
            encoded, label = self.source[(index + passed_over) % len(self)]
            try:
                image, aspect_ratio = decode_to_canvas(encoded, self.canvas, self.channels)
            except Exception:  # Pillow's plugins raise errors of all kinds at malformed files
                continue
            example = {"image": image, "aspect_ratio": np.float32(aspect_ratio), "label": np.int32(label)}
            return example, passed_over
        raise InputError(
            f"config.data.name: {_MOST_UNREADABLE_IN_A_ROW} images of {self.name!r} in a row cannot be read, "
            f"from index {index} on"
        )

    def note(self, index: int, passed_over: int) -> None:
        """Names and counts what `read` passed over, perhaps in another process.

        Raises:
          UnreadableImagesError: by now more of the images than `max_unreadable` cannot be read.
        """
        for unreadable in {(index + offset) % len(self) for offset in range(passed_over)} - self.unreadable:
            self.unreadable.add(unreadable)
            _logger.warning("%s cannot be read: the next image stands in its place", self.name_of(unreadable))
        if len(self.unreadable) > self.max_unreadable * len(self):
            raise UnreadableImagesError(
                f"max_unreadable must be at least the fraction of unreadable images; got {self.max_unreadable}, "
                f"but {len(self.unreadable)} of the {len(self)} images of {self.name!r} cannot be read "
                f"(last: {self.name_of((index + passed_over - 1) % len(self))})"
            )

    def name_of(self, index: int) -> str:
        """What a person knows the image by: its file, where it has one."""
        encoded, _ = self.source[index]
        return str(encoded) if isinstance(encoded, Path) else f"image {index} of {self.name} {self.split}"
