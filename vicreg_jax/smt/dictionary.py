"""Dictionaries: patches drawn at random, none too like another, or the centres of their clusters."""

import numpy as np

_BLOCK = 1024


def unlike_rows(rows: np.ndarray, largest_cosine: float, before: np.ndarray | None = None) -> np.ndarray:
    """Which rows are kept, one after the other, when each has to be unlike all that were kept before it.

    Args:
      rows: at unit length, `[rows, dim]`.
      largest_cosine: a row with a larger cosine to one that was kept is not; 1: all are.
      before: rows that were kept already, `[before, dim]`.

    Returns:
      bool `[rows]`.
    """
    kept = np.ones(len(rows), bool)
    if largest_cosine >= 1:
        return kept
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        earlier = rows[:start][kept[:start]]
        if before is not None:
            earlier = np.concatenate([before, earlier])
        fine = ~np.any(block @ earlier.T > largest_cosine, axis=1)
        alike = block @ block.T > largest_cosine
        for i in range(len(block)):
            fine[i] &= not np.any(alike[i, :i] & fine[:i])
        kept[start : start + _BLOCK] = fine
    return kept


def cluster_centres(patches: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The directions of k-means centres of whitened patches.

    Args:
      patches: at unit length, `[patches, dim]`.
      count: of the clusters.
      seed: of the centres that it begins with, and of the batches.

    Returns:
      float32 `[count, dim]`, at unit length.
    """
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(count, init="random", n_init=1, batch_size=max(4096, 2 * count), random_state=seed)
    centres = means.fit(patches).cluster_centers_
    return (centres / np.linalg.norm(centres, axis=1, keepdims=True)).astype(np.float32)
