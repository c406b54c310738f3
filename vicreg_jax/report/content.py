"""What the report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ViewGrid:
    """Images and what the network was shown of them.

    Attributes:
      originals: uint8 `[images, height, width, channels]`.
      views: one such array for each view, of any height and width.
    """

    originals: np.ndarray
    views: Sequence[np.ndarray]


@dataclass(frozen=True)
class NeighborGrid:
    """Test images and the training images whose features are nearest to theirs.

    Attributes:
      queries: uint8 `[queries, height, width, channels]`.
      neighbors: uint8 `[queries, neighbors, height, width, channels]`, nearest first.
      query_labels, neighbor_labels: integers `[queries]` and `[queries, neighbors]`; None where there are
        none.
      similarities: cosines `[queries, neighbors]`.
    """

    queries: np.ndarray
    neighbors: np.ndarray
    query_labels: np.ndarray | None = None
    neighbor_labels: np.ndarray | None = None
    similarities: np.ndarray | None = None


@dataclass(frozen=True)
class ReportContent:
    """What the report shows; whatever is None or empty is left out, and said to be.

    Attributes:
      title: such as 'VICReg on digits'.
      summary: as in `summary.json`.
      config: every field, nested by section.
      metrics: the rows of `metrics.jsonl`, by step.
      healthy_std: what `embedding_std` should be near.
      spectrum: eigenvalues of the embeddings' covariance, `[min(batch, dim)]`, largest first.
      views, neighbors: pictures.
      class_names: by label.
      warnings: sentences that a person must not miss, such as `collapse_warning`'s.
    """

    title: str
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    healthy_std: float | None = None
    spectrum: np.ndarray | None = None
    views: ViewGrid | None = None
    neighbors: NeighborGrid | None = None
    class_names: Sequence[str] | None = None
    warnings: Sequence[str] = ()
