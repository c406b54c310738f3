"""Grids of images that a report can show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ViewGrid:
    """Training images and their augmented views.

    Attributes:
        originals: uint8 `[images, height, width, channels]`.
        views: one such array per view, of any height and width.
    """

    originals: np.ndarray
    views: Sequence[np.ndarray]


@dataclass(frozen=True)
class NeighborGrid:
    """Test images and the training images with the most similar features.

    Attributes:
        queries: uint8 `[queries, height, width, channels]`.
        neighbors: uint8 `[queries, neighbors, height, width, channels]`, nearest first.
        query_labels: integers `[queries]`; None if unlabeled.
        neighbor_labels: integers `[queries, neighbors]`; None if unlabeled.
        similarities: cosine similarities `[queries, neighbors]`.
    """

    queries: np.ndarray
    neighbors: np.ndarray
    query_labels: np.ndarray | None = None
    neighbor_labels: np.ndarray | None = None
    similarities: np.ndarray | None = None
