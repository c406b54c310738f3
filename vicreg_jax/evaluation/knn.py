"""Weighted nearest-neighbour classification of frozen features: nothing is trained."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

NEIGHBOURS = 20
TEMPERATURE = 0.07


class Neighbours(NamedTuple):
    """The nearest rows of a bank: `indices` int32, cosine `similarities` float32, `[queries, neighbours]`."""

    indices: jax.Array
    similarities: jax.Array


@partial(jax.jit, static_argnames=("neighbours", "chunk", "bank_chunk"))
def nearest_neighbours(
    bank: ArrayLike,
    queries: ArrayLike,
    *,
    neighbours: int = NEIGHBOURS,
    chunk: int = 1024,
    bank_chunk: int = 65536,
) -> Neighbours:
    """Finds the rows of `bank` with the largest cosine similarity to each query, nearest first.

    Equal similarities go to the smaller index. At most `chunk x bank_chunk` similarities exist at a time.
    Arrays may be sharded over their rows: each device then takes its share of every chunk of queries.

    Args:
      bank: features `[rows, dim]`.
      queries: features `[queries, dim]`.
      neighbours: how many to find; all rows where there are fewer.
      chunk: queries compared at a time.
      bank_chunk: rows of the bank compared at a time.

    Returns:
      `Neighbours` of shape `[queries, min(neighbours, rows)]`.

    Raises:
      ValueError: no bank or no queries.

    Example:
      >>> bank = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> nearest_neighbours(bank, jnp.array([[2.0, 0.1]]), neighbours=2).indices
      Array([[0, 2]], dtype=int32)
    """
    bank, queries = _unit_rows(bank), _unit_rows(queries)
    rows, count = len(bank), len(queries)
    if not rows or not count:
        raise ValueError(f"bank, queries: got {rows} and {count} rows, take at least one of each")
    neighbours = min(neighbours, rows)
    bank_chunk = max(min(bank_chunk, rows), neighbours)
    blocks = -(-rows // bank_chunk)
    bank = jnp.pad(bank, ((0, blocks * bank_chunk - rows), (0, 0))).reshape(blocks, bank_chunk, -1)
    first_rows = jnp.arange(blocks) * bank_chunk

    def search(queries: jax.Array) -> Neighbours:
        def search_block(best: Neighbours, block: tuple[jax.Array, jax.Array]) -> tuple[Neighbours, None]:
            features, first_row = block
            similarities = jnp.matmul(queries, features.T, precision=jax.lax.Precision.HIGHEST)
            index = first_row + jnp.arange(bank_chunk)
            similarities, places = jax.lax.top_k(jnp.where(index < rows, similarities, -jnp.inf), neighbours)
            # What was found earlier stands first: where equal, top_k prefers it, with its smaller index.
            similarities = jnp.concatenate([best.similarities, similarities], axis=1)
            indices = jnp.concatenate([best.indices, first_row + places], axis=1)
            similarities, places = jax.lax.top_k(similarities, neighbours)
            return Neighbours(jnp.take_along_axis(indices, places, axis=1), similarities), None

        nothing = Neighbours(
            jnp.zeros((len(queries), neighbours), jnp.int32), jnp.full((len(queries), neighbours), -jnp.inf)
        )
        return jax.lax.scan(search_block, nothing, (bank, first_rows))[0]

    return _map_chunks(search, queries, min(chunk, count))


def _unit_rows(features: ArrayLike) -> jax.Array:
    features = jnp.asarray(features, jnp.float32)
    return features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _map_chunks(function: Callable[[jax.Array], Neighbours], rows: jax.Array, chunk: int) -> Neighbours:
    """`function(rows)` for `chunk` rows at a time."""
    count = len(rows)
    blocks = -(-count // chunk)
    rows = jnp.pad(rows, ((0, blocks * chunk - count), (0, 0)))
    # Block i takes the rows i, i + blocks, ...: where the rows are sharded, every block then is too.
    results = jax.lax.map(function, rows.reshape(chunk, blocks, -1).swapaxes(0, 1))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(chunk * blocks, -1)[:count], results)


@partial(jax.jit, static_argnames=("num_classes", "neighbours", "chunk", "bank_chunk"))
def knn_predict(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    *,
    num_classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    chunk: int = 1024,
    bank_chunk: int = 65536,
) -> jax.Array:
    """Classifies each test row by the votes of its nearest training rows.

    Each of the `neighbours` training rows with the largest cosine similarity votes for its class with the
    weight exp(similarity / temperature); the class with the most wins, the smaller one when equal. A label of
    -1 has no vote.

    Args:
      train_features: `[train, dim]`.
      train_labels: integers `[train]`.
      test_features: `[test, dim]`.
      num_classes: of the labels.
      neighbours, chunk, bank_chunk: as for `nearest_neighbours`.
      temperature: the smaller, the more the nearest count.

    Returns:
      int32 `[test]`.

    Source: Wu et al., Unsupervised feature learning via non-parametric instance discrimination (CVPR 2018),
      section
    3.4, with the k = 20 of VICReg, table 11.
    """
    indices, similarities = nearest_neighbours(
        train_features, test_features, neighbours=neighbours, chunk=chunk, bank_chunk=bank_chunk
    )
    # Less the nearest's, which changes no vote's share but keeps exp in range at any temperature.
    weights = jnp.exp((similarities - similarities[:, :1]) / temperature)
    votes = weights[..., None] * jax.nn.one_hot(jnp.asarray(train_labels)[indices], num_classes)
    return jnp.argmax(jnp.sum(votes, axis=1), axis=1)


def knn_accuracy(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    num_classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    chunk: int = 1024,
    bank_chunk: int = 65536,
) -> float:
    """The fraction of test rows that `knn_predict` classifies rightly; arguments as there."""
    predictions = knn_predict(
        train_features,
        train_labels,
        test_features,
        num_classes=num_classes,
        neighbours=neighbours,
        temperature=temperature,
        chunk=chunk,
        bank_chunk=bank_chunk,
    )
    return float(np.mean(np.asarray(predictions) == np.asarray(test_labels)))
