"""From patch embeddings to an image's: at unit length each, averaged over parts of the image."""

import jax
import jax.numpy as jnp
import numpy as np


def pooling_matrix(size: int, window: int, stride: int, cells: int) -> np.ndarray:
    """Average pooling along one axis, and adaptive average pooling of what comes out, as one matrix.

    Args:
      size: places along the axis.
      window, stride: of the first pooling.
      cells: what the second leaves; cell i is the mean of the places from floor(i n / cells) to ceil((i + 1) n /
        cells) of the n that it is given, as in PyTorch.

    Returns:
      float32 `[cells, size]`; rows sum to 1.
    """
    starts = range(0, size - window + 1, stride)
    pooled = np.stack([_mean_over(size, start, start + window) for start in starts])
    n = len(pooled)
    adaptive = np.stack([_mean_over(n, i * n // cells, -(-(i + 1) * n // cells)) for i in range(cells)])
    return (adaptive @ pooled).astype(np.float32)


def _mean_over(size: int, start: int, stop: int) -> np.ndarray:
    row = np.zeros(size)
    row[start:stop] = 1 / (stop - start)
    return row


def pool(embeddings: jax.Array, over_rows: jax.Array | np.ndarray, over_columns: jax.Array | np.ndarray) -> jax.Array:
    """Averages patch embeddings of unit length over parts of the image, each part brought to unit length again.

    Args:
      embeddings: `[images, rows, columns, dim]`; zeros stay zero.
      over_rows, over_columns: `[cells, rows]` and `[cells, columns]`; see `pooling_matrix`.

    Returns:
      `[images, cells * cells * dim]`.
    """
    pooled = jnp.einsum(
        "ar,bc,nrcd->nabd",
        over_rows,
        over_columns,
        _unit(embeddings),
        precision=jax.lax.Precision.HIGHEST,
    )
    return _unit(pooled).reshape(len(embeddings), -1)


def _unit(vectors: jax.Array) -> jax.Array:
    return vectors / (jnp.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-9)
