"""Weighted nearest-neighbor classification of frozen features: nothing is trained."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

from vicreg_jax.evaluation.rows import first_rows, replicate, split_rows

NEIGHBORS = 20
TEMPERATURE = 0.07


class Neighbors(NamedTuple):
    """The nearest rows of a bank: `indices` int32, cosine `similarities` float32, `[queries, neighbors]`."""

    indices: jax.Array
    similarities: jax.Array


def nearest_neighbors(
    bank: ArrayLike,
    queries: ArrayLike,
    *,
    neighbors: int = NEIGHBORS,
    chunk: int = 1024,
    bank_chunk: int = 65536,
    sharding: NamedSharding | None = None,
) -> Neighbors:
    """Finds the rows of `bank` with the largest cosine similarity to each query, nearest first.

    Equal similarities go to the smaller index. At most `chunk x bank_chunk` similarities exist at a time, on each
    device. With `sharding` each device holds its share of both arrays and compares all queries with its share of the
    bank.

    Args:
      bank: features `[rows, dim]`.
      queries: features `[queries, dim]`.
      neighbors: how many to find; all rows where there are fewer.
      chunk: queries compared at a time.
      bank_chunk: rows of the bank compared at a time.
      sharding: splits the rows of both over the devices of a mesh. The arrays are then given on the host, the same
        in every process, and every device gets the whole result.

    Returns:
      `Neighbors` of shape `[queries, min(neighbors, rows)]`.

    Raises:
      ValueError: no bank or no queries.

    Example:
      >>> bank = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> nearest_neighbors(bank, jnp.array([[2.0, 0.1]]), neighbors=2).indices
      Array([[0, 2]], dtype=int32)
    """
    near = _search(bank, queries, neighbors, chunk, bank_chunk, sharding)
    return first_rows(near, np.shape(queries)[0], sharding)


def _search(
    bank: ArrayLike, queries: ArrayLike, neighbors: int, chunk: int, bank_chunk: int, sharding: NamedSharding | None
) -> Neighbors:
    """`nearest_neighbors` whose rows are still split, and filled up."""
    rows, count = np.shape(bank)[0], np.shape(queries)[0]
    if not rows or not count:
        raise ValueError(f"bank, queries: got {rows} and {count} rows, take at least one of each")
    bank, queries = split_rows(bank, sharding), split_rows(queries, sharding)
    return _search_split(bank, queries, rows, min(neighbors, rows), chunk, bank_chunk, sharding)


@partial(jax.jit, static_argnums=range(2, 7))
def _search_split(
    bank: jax.Array,
    queries: jax.Array,
    rows: int,
    neighbors: int,
    chunk: int,
    bank_chunk: int,
    sharding: NamedSharding | None,
) -> Neighbors:
    """Arguments as they come from `split_rows`; `rows` of the bank are real."""
    bank, queries = _unit_rows(bank), _unit_rows(queries)
    if sharding is None:
        return _map_chunks(lambda some: _search_bank(bank, some, rows, neighbors, bank_chunk), queries, chunk)
    axes = sharding.spec[0]

    def search_share(bank: jax.Array, queries: jax.Array) -> Neighbors:
        first_row = jax.lax.axis_index(axes) * len(bank)

        def search(queries: jax.Array) -> Neighbors:
            # Every device's queries meet this share of the bank; what was found then goes home, where candidates
            # stand in the order of the shares: where equal, top_k prefers the smaller index.
            queries = jax.lax.all_gather(queries, axes, tiled=True)
            near = _search_bank(bank, queries, jnp.clip(rows - first_row, 0, len(bank)), neighbors, bank_chunk)
            near = near._replace(indices=first_row + near.indices)
            candidates = jax.tree.map(lambda x: jax.lax.all_to_all(x, axes, 0, 1, tiled=True), near)
            return _nearest(candidates, neighbors)

        return _map_chunks(search, queries, -(-chunk // jax.lax.axis_size(axes)))

    # The loop over blocks starts from constants, which the check would want marked as different on each device.
    return jax.shard_map(
        search_share, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=sharding.spec, check_vma=False
    )(bank, queries)


def _search_bank(
    bank: jax.Array, queries: jax.Array, rows: jax.Array | int, neighbors: int, bank_chunk: int
) -> Neighbors:
    """The nearest among the first `rows` of `bank`; similarity -inf where there are fewer than `neighbors`."""
    bank_chunk = max(min(bank_chunk, len(bank)), neighbors)
    blocks = -(-len(bank) // bank_chunk)
    bank = jnp.pad(bank, ((0, blocks * bank_chunk - len(bank)), (0, 0))).reshape(blocks, bank_chunk, -1)
    first_rows = jnp.arange(blocks) * bank_chunk

    def search_block(best: Neighbors, block: tuple[jax.Array, jax.Array]) -> tuple[Neighbors, None]:
        features, first_row = block
        similarities = jnp.matmul(queries, features.T, precision=jax.lax.Precision.HIGHEST)
        index = first_row + jnp.arange(bank_chunk)
        similarities, places = jax.lax.top_k(jnp.where(index < rows, similarities, -jnp.inf), neighbors)
        # What was found earlier stands first: where equal, top_k prefers it, with its smaller index.
        similarities = jnp.concatenate([best.similarities, similarities], axis=1)
        indices = jnp.concatenate([best.indices, first_row + places], axis=1)
        return _nearest(Neighbors(indices, similarities), neighbors), None

    nothing = Neighbors(jnp.zeros((len(queries), neighbors), jnp.int32), jnp.full((len(queries), neighbors), -jnp.inf))
    return jax.lax.scan(search_block, nothing, (bank, first_rows))[0]


def _nearest(candidates: Neighbors, neighbors: int) -> Neighbors:
    similarities, places = jax.lax.top_k(candidates.similarities, neighbors)
    return Neighbors(jnp.take_along_axis(candidates.indices, places, axis=1), similarities)


def _unit_rows(features: ArrayLike) -> jax.Array:
    features = jnp.asarray(features, jnp.float32)
    return features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _map_chunks(function: Callable[[jax.Array], Neighbors], rows: jax.Array, chunk: int) -> Neighbors:
    """`function(rows)` for at most `chunk` rows at a time."""
    count = len(rows)
    chunk = min(chunk, count)
    blocks = -(-count // chunk)
    rows = jnp.pad(rows, ((0, blocks * chunk - count), (0, 0)))
    # Block i takes the rows i, i + blocks, ...: where the rows are sharded, every block then is too.
    results = jax.lax.map(function, rows.reshape(chunk, blocks, -1).swapaxes(0, 1))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(chunk * blocks, -1)[:count], results)


def knn_predict(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    *,
    num_classes: int,
    neighbors: int = NEIGHBORS,
    temperature: float = TEMPERATURE,
    chunk: int = 1024,
    bank_chunk: int = 65536,
    sharding: NamedSharding | None = None,
) -> jax.Array:
    """Classifies each test row by the votes of its nearest training rows.

    Each of the `neighbors` training rows with the largest cosine similarity votes for its class with the
    weight exp(similarity / temperature); the class with the most wins, the smaller one when equal. A label of
    -1 has no vote.

    Args:
      train_features: `[train, dim]`.
      train_labels: integers `[train]`.
      test_features: `[test, dim]`.
      num_classes: of the labels.
      neighbors, chunk, bank_chunk, sharding: as for `nearest_neighbors`.
      temperature: the smaller, the more the nearest count.

    Returns:
      int32 `[test]`.

    Source: Wu et al., Unsupervised feature learning via non-parametric instance discrimination (CVPR 2018),
      section
    3.4, with the k = 20 of VICReg, table 11.
    """
    near = _search(train_features, test_features, neighbors, chunk, bank_chunk, sharding)
    predictions = _vote(near, replicate(train_labels, sharding), num_classes, temperature)
    return first_rows(predictions, np.shape(test_features)[0], sharding)


@partial(jax.jit, static_argnames="num_classes")
def _vote(near: Neighbors, labels: ArrayLike, num_classes: int, temperature: float) -> jax.Array:
    indices, similarities = near
    # Less the nearest's, which changes no vote's share but keeps exp in range at any temperature.
    weights = jnp.exp((similarities - similarities[:, :1]) / temperature)
    votes = weights[..., None] * jax.nn.one_hot(jnp.asarray(labels)[indices], num_classes)
    return jnp.argmax(jnp.sum(votes, axis=1), axis=1)


def knn_accuracy(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    num_classes: int,
    neighbors: int = NEIGHBORS,
    temperature: float = TEMPERATURE,
    chunk: int = 1024,
    bank_chunk: int = 65536,
    sharding: NamedSharding | None = None,
) -> float:
    """The fraction of test rows that `knn_predict` classifies rightly; arguments as there."""
    predictions = knn_predict(
        train_features,
        train_labels,
        test_features,
        num_classes=num_classes,
        neighbors=neighbors,
        temperature=temperature,
        chunk=chunk,
        bank_chunk=bank_chunk,
        sharding=sharding,
    )
    return float(np.mean(np.asarray(predictions) == np.asarray(test_labels)))
