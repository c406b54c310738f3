"""Features of images, with the images' names."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vicreg_jax.data import Dataset
from vicreg_jax.data.names import readable


class Embeddings(NamedTuple):
    """Features of named images.

    Attributes:
        names: of the images: a file's path below its folder, or `SPLIT/INDEX`. A byte that is not UTF-8 is shown as
            `\\xe9`.
        features: float32 `[images, feature_dim]`.
        labels: int32 `[images]`; -1: unlabeled.
        class_names: by label; None if the images are unlabeled.
    """

    names: list[str]
    features: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] | None


def join(parts: Sequence[Embeddings]) -> Embeddings:
    """Parts of one dataset, at least one, as a whole."""
    return Embeddings(
        [name for part in parts for name in part.names],
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
        parts[0].class_names,
    )


def image_name(dataset: Dataset, index: int, root: str | os.PathLike) -> str:
    """The name of image `index`, as in `Embeddings`; `root` is the folder that names of files are relative to."""
    for split, indices in dataset.parts:  # not read: a single read may take long
        if index < len(indices):
            return f"{split}/{indices[index]}"
        index -= len(indices)
    image, _ = dataset.source[index]
    return readable(os.path.relpath(image, root)) if isinstance(image, Path) else str(index)
