"""Weighted k-nearest-neighbor classification of frozen features, without training."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from vicreg_jax.evaluation.feature_bank import FeatureBank
from vicreg_jax.evaluation.features import LabeledFeatures
from vicreg_jax.evaluation.rows import first_rows, replicate, split_rows
from vicreg_jax.losses.normalize import l2_normalize

NEIGHBORS = 20
TEMPERATURE = 0.07


class Neighbors(NamedTuple):
    """The nearest rows of a bank: `indices` int32 and cosine `similarities` float32, both `[queries, neighbors]`."""

    indices: jax.Array
    similarities: jax.Array


def nearest_neighbors(
    bank: ArrayLike | FeatureBank,
    queries: ArrayLike,
    *,
    neighbors: int = NEIGHBORS,
    chunk: int = 1024,
    bank_chunk: int = 65536,
    sharding: NamedSharding | None = None,
) -> Neighbors:
    """Find the rows of `bank` with the largest cosine similarity to each query, nearest first.

    Ties go to the smaller index. At most `chunk x bank_chunk` similarities are in memory at a time, on each device.
    With `sharding`, each device holds its share of both arrays and compares all queries with its share of the bank.

    Args:
        bank: features `[rows, dim]`, or a `FeatureBank`, which has its own blocks and sharding.
        queries: features `[queries, dim]`.
        neighbors: number of neighbors to find; all rows of the bank if there are fewer.
        chunk: number of queries to compare at a time.
        bank_chunk: number of rows of the bank to compare at a time.
        sharding: splits the rows of both arrays over the devices of a mesh. Pass host arrays, the same in every
            process; every device gets the whole result.

    Returns:
        `Neighbors` of shape `[queries, min(neighbors, rows)]`.

    Raises:
        ValueError: `bank` or `queries` has no rows.

    Example:
        >>> bank = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> nearest_neighbors(bank, jnp.array([[2.0, 0.1]]), neighbors=2).indices
        Array([[0, 2]], dtype=int32)
    """
    near = _search(bank, queries, neighbors, chunk, bank_chunk, sharding)
    return first_rows(near, np.shape(queries)[0], sharding)


def _search(
    bank: ArrayLike | FeatureBank,
    queries: ArrayLike,
    neighbors: int,
    chunk: int,
    bank_chunk: int,
    sharding: NamedSharding | None,
) -> Neighbors:
    """`nearest_neighbors`, its rows still split and padded."""
    rows, count = bank.count if isinstance(bank, FeatureBank) else np.shape(bank)[0], np.shape(queries)[0]
    for name, size in (("bank", rows), ("queries", count)):
        if not size:
            raise ValueError(f"{name} must have at least one row; got none")
    if isinstance(bank, FeatureBank):
        queries = replicate(np.asarray(queries), bank.sharding)
        return _search_feature_bank(bank.features, bank.rows, queries, min(neighbors, rows), chunk, bank.sharding)
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
    """Search arrays from `split_rows`. Rows of the bank after the first `rows` are padding."""
    bank, queries = (l2_normalize(jnp.asarray(x, jnp.float32)) for x in (bank, queries))
    if sharding is None:
        return _map_chunks(lambda some: _search_bank(bank, some, rows, neighbors, bank_chunk), queries, chunk)
    axes = sharding.spec[0]

    def search_share(bank: jax.Array, queries: jax.Array) -> Neighbors:
        first_row = jax.lax.axis_index(axes) * len(bank)

        def search(queries: jax.Array) -> Neighbors:
            # All devices' queries meet this share of the bank; the candidates then return to their queries' device,
            # in the order of the shares. Among equal similarities top_k takes the first, with the smaller index.
            queries = jax.lax.all_gather(queries, axes, tiled=True)
            near = _search_bank(bank, queries, jnp.clip(rows - first_row, 0, len(bank)), neighbors, bank_chunk)
            near = near._replace(indices=first_row + near.indices)
            candidates = jax.tree.map(lambda x: jax.lax.all_to_all(x, axes, 0, 1, tiled=True), near)
            return _nearest(candidates, neighbors)

        return _map_chunks(search, queries, -(-chunk // jax.lax.axis_size(axes)))

    # The scan over blocks starts from constants, which the check of varying axes rejects.
    return jax.shard_map(
        search_share, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=sharding.spec, check_vma=False
    )(bank, queries)


def _search_bank(
    bank: jax.Array, queries: jax.Array, rows: jax.Array | int, neighbors: int, bank_chunk: int
) -> Neighbors:
    """Find the nearest of the first `rows` of `bank`; the similarity is -inf in slots past their number."""
    bank_chunk = max(min(bank_chunk, len(bank)), neighbors)
    blocks = -(-len(bank) // bank_chunk)
    bank = jnp.pad(bank, ((0, blocks * bank_chunk - len(bank)), (0, 0))).reshape(blocks, bank_chunk, -1)
    first_rows = jnp.arange(blocks) * bank_chunk

    def search_block(best: Neighbors, block: tuple[jax.Array, jax.Array]) -> tuple[Neighbors, None]:
        features, first_row = block
        similarities = jnp.matmul(queries, features.T, precision=jax.lax.Precision.HIGHEST)
        index = first_row + jnp.arange(bank_chunk)
        similarities, places = jax.lax.top_k(jnp.where(index < rows, similarities, -jnp.inf), neighbors)
        # Earlier candidates come first: among equal similarities top_k takes the first, with the smaller index.
        similarities = jnp.concatenate([best.similarities, similarities], axis=1)
        indices = jnp.concatenate([best.indices, first_row + places], axis=1)
        return _nearest(Neighbors(indices, similarities), neighbors), None

    nothing = Neighbors(jnp.zeros((len(queries), neighbors), jnp.int32), jnp.full((len(queries), neighbors), -jnp.inf))
    return jax.lax.scan(search_block, nothing, (bank, first_rows))[0]


def _nearest(candidates: Neighbors, neighbors: int) -> Neighbors:
    similarities, places = jax.lax.top_k(candidates.similarities, neighbors)
    return Neighbors(jnp.take_along_axis(candidates.indices, places, axis=1), similarities)


@partial(jax.jit, static_argnames=("neighbors", "chunk", "sharding"))
def _search_feature_bank(
    features: jax.Array, rows: jax.Array, queries: jax.Array, neighbors: int, chunk: int, sharding: NamedSharding
) -> Neighbors:
    """Search a `FeatureBank`, with replicated queries; the indices are those of the images."""
    axes = sharding.spec[0]

    def search_share(features: jax.Array, rows: jax.Array, queries: jax.Array) -> Neighbors:
        def search_block(best: Neighbors, block: tuple[jax.Array, jax.Array], queries: jax.Array) -> Neighbors:
            unit, row = block[0].reshape(-1, features.shape[-1]).astype(jnp.float32), block[1].reshape(-1)
            similarities = jnp.matmul(queries, unit.T, precision=jax.lax.Precision.HIGHEST)
            found = jax.lax.top_k(jnp.where(row >= 0, similarities, -jnp.inf), min(neighbors, len(row)))
            indices = jnp.concatenate([best.indices, row[found[1]]], axis=1)
            return _nearest(Neighbors(indices, jnp.concatenate([best.similarities, found[0]], axis=1)), neighbors)

        def search(queries: jax.Array) -> Neighbors:
            shape = len(queries), neighbors
            nothing = Neighbors(jnp.zeros(shape, jnp.int32), jnp.full(shape, -jnp.inf))
            near, _ = jax.lax.scan(
                lambda best, block: (search_block(best, block, queries), None), nothing, (features, rows)
            )
            indices, similarities = (jax.lax.all_gather(x, axes, axis=1, tiled=True) for x in near)
            # The devices' rows alternate: equal similarities are put in the order of the images.
            similarities, indices = jax.lax.sort((-similarities, indices), num_keys=2)
            return Neighbors(indices[:, :neighbors], -similarities[:, :neighbors])

        return _map_chunks(search, l2_normalize(jnp.asarray(queries, jnp.float32)), chunk)

    split, whole = PartitionSpec(None, None, axes), PartitionSpec()
    return jax.shard_map(
        search_share, mesh=sharding.mesh, in_specs=(split, split, whole), out_specs=whole, check_vma=False
    )(features, rows, queries)


def _map_chunks(function: Callable[[jax.Array], Neighbors], rows: jax.Array, chunk: int) -> Neighbors:
    """Map `function` over at most `chunk` rows at a time."""
    count = len(rows)
    chunk = min(chunk, count)
    blocks = -(-count // chunk)
    rows = jnp.pad(rows, ((0, blocks * chunk - count), (0, 0)))
    # Block i has the rows i, i + blocks, ..., so that every block of sharded rows is sharded too.
    results = jax.lax.map(function, rows.reshape(chunk, blocks, -1).swapaxes(0, 1))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(chunk * blocks, -1)[:count], results)


def knn_predict(
    train: LabeledFeatures | FeatureBank,
    queries: ArrayLike,
    *,
    num_classes: int,
    neighbors: int = NEIGHBORS,
    temperature: float = TEMPERATURE,
    chunk: int = 1024,
    bank_chunk: int = 65536,
    sharding: NamedSharding | None = None,
) -> jax.Array:
    """Classify each query by the votes of its nearest training rows.

    Each of the `neighbors` training rows with the largest cosine similarity votes for its class with the weight
    exp(similarity / temperature). The class with the largest sum wins; ties go to the smaller class. A row with label
    -1 does not vote.

    Args:
        train: features `[rows, dim]` and integer labels `[rows]`, or a `FeatureBank`.
        queries: features `[queries, dim]`.
        num_classes: number of classes.
        neighbors: as for `nearest_neighbors`.
        temperature: above 0; a lower temperature gives the nearest neighbors more weight.
        chunk: as for `nearest_neighbors`.
        bank_chunk: as for `nearest_neighbors`.
        sharding: as for `nearest_neighbors`.

    Returns:
        int32 `[queries]`.

    Source: Wu et al., Unsupervised feature learning via non-parametric instance discrimination (CVPR 2018), section
        3.4; 20 neighbors as in VICReg, table 11.
    """
    bank, labels = (train, train.labels) if isinstance(train, FeatureBank) else train
    near = _search(bank, queries, neighbors, chunk, bank_chunk, sharding)
    predictions = _vote(near, replicate(labels, sharding), num_classes, temperature)
    return first_rows(predictions, np.shape(queries)[0], sharding)


@partial(jax.jit, static_argnames="num_classes")
def _vote(near: Neighbors, labels: ArrayLike, num_classes: int, temperature: float) -> jax.Array:
    indices, similarities = near
    # Relative to the nearest, which scales all votes alike and keeps exp in range at any temperature.
    weights = jnp.exp((similarities - similarities[:, :1]) / temperature)
    votes = weights[..., None] * jax.nn.one_hot(jnp.asarray(labels)[indices], num_classes)
    return jnp.argmax(jnp.sum(votes, axis=1), axis=1)


def knn_accuracy(
    train: LabeledFeatures | FeatureBank,
    test: LabeledFeatures,
    *,
    num_classes: int,
    neighbors: int = NEIGHBORS,
    temperature: float = TEMPERATURE,
    sharding: NamedSharding | None = None,
) -> float:
    """Compute the fraction of test rows that `knn_predict` classifies correctly.

    Args:
        train: as for `knn_predict`.
        test: features `[rows, dim]` and integer labels `[rows]`.
        num_classes: number of classes.
        neighbors: as for `knn_predict`.
        temperature: as for `knn_predict`.
        sharding: as for `knn_predict`.

    Returns:
        The accuracy, from 0 to 1.
    """
    test_features, test_labels = test
    predictions = knn_predict(
        train,
        test_features,
        num_classes=num_classes,
        neighbors=neighbors,
        temperature=temperature,
        sharding=sharding,
    )
    return float(np.mean(np.asarray(predictions) == np.asarray(test_labels)))
