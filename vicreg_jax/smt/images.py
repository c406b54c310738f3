"""Images as the transform takes them: checked, and chunk by chunk."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

# Images go through in blocks of this size: a program of the same shapes on any number of devices rounds the same.
BLOCK = 8


def check_chunk_size(chunk_size: int) -> None:
    """Refuses one below 1."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size: got {chunk_size}, takes an integer of at least 1")


def as_images(images: ArrayLike) -> np.ndarray:
    """Images on the host; refuses what is none."""
    array = np.asarray(images)
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"images: got dtype {array.dtype}, takes uint8, or float in [0, 1]")
    if array.ndim != 4 or array.size == 0:
        raise ValueError(
            f"images: got shape {array.shape}, takes [images, height, width, channels], at least one image"
        )
    if array.dtype != np.uint8:
        if not (np.min(array) >= 0 and np.max(array) <= 1):  # also where one is not a number
            raise ValueError(f"images: got values from {np.min(array)} to {np.max(array)}, takes floats in [0, 1]")
        array = array.astype(np.float32)
    return array


class ImageStream(Protocol):
    """Where a fit takes its images from, as often as it needs them."""

    count: int
    image_shape: tuple[int, int, int]
    chunk_size: int  # images, a multiple of BLOCK on each device
    sharding: NamedSharding | None  # of a chunk's images over devices

    def chunks(self, start: int) -> Iterator[tuple[Any, Any]]:
        """Chunks from the `start`-th on: images `[chunk_size, height, width, channels]`, and which rows are real."""

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Some images by index."""


class ArrayStream:
    """Images that are all in memory."""

    sharding: NamedSharding | None = None

    def __init__(self, images: np.ndarray, chunk_size: int):
        self._images = images
        height, width, channels = images.shape[1:]
        self.count, self.image_shape = len(images), (height, width, channels)
        self.chunk_size = BLOCK * -(-min(chunk_size, len(images)) // BLOCK)

    def chunks(self, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `ImageStream`."""
        for first in range(start * self.chunk_size, self.count, self.chunk_size):
            chunk = self._images[first : first + self.chunk_size]
            padding = self.chunk_size - len(chunk)
            yield np.pad(chunk, [(0, padding), (0, 0), (0, 0), (0, 0)]), np.arange(self.chunk_size) < len(chunk)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """See `ImageStream`."""
        return self._images[indices]
