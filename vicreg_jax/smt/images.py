"""The transform's input images: their checks, and streams of chunks."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

# Images per block. Blocks have the same shape on any number of devices, so that results round alike.
BLOCK = 8


def check_chunk_size(chunk_size: int) -> None:
    """Raises ValueError for a chunk size below 1."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be an integer of at least 1; got {chunk_size}")


def as_images(images: ArrayLike) -> np.ndarray:
    """Checks images and returns them on the host.

    Args:
        images: `[n, height, width, channels]`, uint8, or float in [0, 1].

    Returns:
        uint8 or float32 `[n, height, width, channels]`.

    Raises:
        TypeError: another dtype.
        ValueError: another rank, no image, or floats outside [0, 1].
    """
    array = np.asarray(images)
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"images must be uint8, or float in [0, 1]; got dtype {array.dtype}")
    if array.ndim != 4 or array.size == 0:
        raise ValueError(
            f"images must have shape [images, height, width, channels], none of them 0; got shape {array.shape}"
        )
    if array.dtype != np.uint8:
        if not (np.min(array) >= 0 and np.max(array) <= 1):  # NaN fails as well
            raise ValueError(
                f"images must be in [0, 1] where they are float; got values from {np.min(array)} to {np.max(array)}"
            )
        array = array.astype(np.float32)
    return array


class ImageStream(Protocol):
    """A source of images that can be read repeatedly, in chunks or by index.

    Attributes:
        count: number of images.
        image_shape: height, width and channels.
        chunk_size: images per chunk, a multiple of `BLOCK` on each device.
        sharding: sharding of a chunk's images; None: on one device.
    """

    count: int
    image_shape: tuple[int, int, int]
    chunk_size: int
    sharding: NamedSharding | None

    def chunks(self, start: int) -> Iterator[tuple[Any, Any]]:
        """Iterates over the chunks from number `start` on.

        Yields:
            Images `[chunk_size, height, width, channels]` and a mask `[chunk_size]`, False for padding.
        """

    def images(self, indices: np.ndarray) -> np.ndarray:
        """The images with these indices."""


class ArrayStream:
    """A stream of images in memory."""

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
