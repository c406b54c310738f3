"""Pooling of patch embeddings into the features of an image."""

import jax
import jax.numpy as jnp
import numpy as np


def pooling_matrix(size: int, window: int, stride: int, cells: int) -> np.ndarray:
    """The matrix of average pooling followed by adaptive average pooling, along one axis.

    As in PyTorch, the adaptive pooling of n values averages those from floor(i n / cells) to ceil((i + 1) n / cells)
    into cell i.

    Args:
        size: patches along the axis.
        window: window of the first pooling.
        stride: stride of the first pooling.
        cells: output size of the adaptive pooling.

    Returns:
        float32 `[cells, size]`; its rows sum to 1.
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
    """Normalizes patch embeddings to unit norm, averages them into cells, and normalizes each cell.

    Args:
        embeddings: `[images, rows, columns, dim]`; zeros stay zero.
        over_rows: pooling matrix of the rows, `[cells, rows]`, see `pooling_matrix`.
        over_columns: pooling matrix of the columns, `[cells, columns]`.

    Returns:
        `[images, cells * cells * dim]`.
    """
    pooled = jnp.einsum(
        "ar,bc,nrcd->nabd",
        over_rows,
        over_columns,
        _normalize(embeddings),
        precision=jax.lax.Precision.HIGHEST,
    )
    return _normalize(pooled).reshape(len(embeddings), -1)


def _normalize(vectors: jax.Array) -> jax.Array:
    return vectors / (jnp.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-9)
