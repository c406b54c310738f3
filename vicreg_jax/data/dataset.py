"""One split of a data set: images by index, each as a square canvas with the shape it had."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vicreg_jax.data.images import decode_to_canvas
from vicreg_jax.errors import InputError

NO_LABEL = -1
# So many unreadable images in a row are not a few bad files but a disk that is gone.
_MOST_UNREADABLE_IN_A_ROW = 100

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
      skipped: files that were found unreadable when the set was opened, and left out.
      unreadable: what turned out unreadable later on; the next image that can be read stands in its place.
    """

    name: str
    split: str
    source: Sequence[tuple[bytes | Path, int]]
    canvas: int
    channels: int
    class_names: tuple[str, ...] | None = None
    skipped: int = 0
    unreadable: set[str] = dataclasses.field(default_factory=set)

    @property
    def num_classes(self) -> int | None:
        """How many classes the labels tell apart; None where there are no labels."""
        return None if self.class_names is None else len(self.class_names)

    def __len__(self) -> int:
        """How many images."""
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The image at `index`, decoded.

        Returns:
          `image` uint8 `[canvas, canvas, channels]`, `aspect_ratio` float32 (width / height of the image as
          it was), `label` int32 (-1: none).
        """
        index = range(len(self))[index]
        for attempt in range(_MOST_UNREADABLE_IN_A_ROW):
            encoded, label = self.source[(index + attempt) % len(self)]
            try:
                image, aspect_ratio = decode_to_canvas(encoded, self.canvas, self.channels)
            except Exception as error:  # Pillow's plugins raise errors of all kinds at malformed files
                self._report(encoded, (index + attempt) % len(self), error)
                continue
            return {"image": image, "aspect_ratio": np.float32(aspect_ratio), "label": np.int32(label)}
        raise InputError(
            f"config.data.name: {_MOST_UNREADABLE_IN_A_ROW} images of {self.name!r} in a row cannot be read, "
            f"from index {index} on"
        )

    def _report(self, encoded: bytes | Path, index: int, error: Exception) -> None:
        name = str(encoded) if isinstance(encoded, Path) else f"image {index} of {self.name} {self.split}"
        if name not in self.unreadable:
            self.unreadable.add(name)
            _logger.warning("%s cannot be read (%s): the next image stands in its place", name, error)
