"""The bundled dataset: the 1797 handwritten digits of scikit-learn."""

import numpy as np

from vicreg_jax.data.collection import Collection
from vicreg_jax.data.in_memory import InMemoryImages


def open_digits() -> Collection:
    """8 x 8 gray images of handwritten digits: 1437 for training, 360 for testing.

    The original values 0 to 16 are scaled to 0 to 255 and rounded. The split is stratified by class.

    Source: https://archive.ics.uci.edu/dataset/80, as bundled with scikit-learn.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)
    train, test = train_test_split(np.arange(len(images)), test_size=0.2, random_state=1, stratify=digits.target)
    return Collection(
        splits={
            split: InMemoryImages(split, images[indices], digits.target[indices], keys=indices.tolist())
            for split, indices in (("train", train), ("test", test))
        },
        channels=1,
        side=8,
        class_names=tuple(str(digit) for digit in range(10)),
    )
