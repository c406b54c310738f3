"""Gray images in memory, in the order in which tfds would store them."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vicreg_jax.data.collection import NO_LABEL, LabeledImage


class InMemoryImages(Sequence):
    """Gray images and their labels, in the order of `tfds_order`."""

    def __init__(self, split: str, images: np.ndarray, labels: np.ndarray | None, keys: Sequence[int]):
        """Puts the images in order.

        Args:
            split: name of the split.
            images: uint8 `[n, height, width]`.
            labels: integers `[n]`; None if the images are unlabeled.
            keys: of the images, unique within the split.
        """
        order = tfds_order(split, keys)
        self._images = images[order]
        self._labels = None if labels is None else labels[order]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def __getitem__(self, index: Any) -> LabeledImage:
        """The pixels of image `index`, and its label."""
        return self._images[index], NO_LABEL if self._labels is None else int(self._labels[index])


def tfds_order(split: str, keys: Sequence[int]) -> list[int]:
    """The order in which tfds stores the examples of a split.

    tfds sorts examples by the MD5 digest of the split's name followed by the key (tensorflow_datasets 4.9,
    core/hashing.py and core/shuffle.py). Bundled and IDX datasets keep this order, in which earlier versions
    prepared them with tfds: a batch is a function of it, and so is a slice such as 'train[:90%]'.

    Returns:
        Positions in `keys`, in the order of storage.

    >>> tfds_order("train", range(5))
    [4, 0, 3, 1, 2]
    """
    digests = [hashlib.md5(f"{split}{key}".encode(), usedforsecurity=False).digest() for key in keys]
    return sorted(range(len(keys)), key=digests.__getitem__)
