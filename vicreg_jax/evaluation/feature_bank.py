"""Features of a large split: those of all images on the devices, for kNN; those of some on the host.

1.28 million rows of 2048 take 10 GB in float32. In a bank each device keeps its rows of every batch, in float16, and no
host holds them all.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vicreg_jax.data import Batch
from vicreg_jax.evaluation.features import LabeledFeatures, one_behind, to_host
from vicreg_jax.losses.normalize import l2_normalize

LARGE_SPLIT = 2**17  # images; the features of a larger training split are kept in a bank


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureBank:
    """Features of every image of a split.

    Attributes:
        features: float16 `[blocks, steps, batch, dim]`, of unit length, its third axis split over the devices.
        rows: int32 `[blocks, steps, batch]`, split likewise: the index of each image, -1 in rows to ignore.
        labels: int32 `[images]`, on the host; -1 means unlabeled.
        subset: features float32 and labels of every `every`-th image, on the host, for classifiers that are trained.
        every: see `subset`.
        count: number of rows that are not ignored.
        sharding: of the rows of a batch.
    """

    features: jax.Array
    rows: jax.Array
    labels: np.ndarray
    subset: LabeledFeatures
    every: int
    count: int
    sharding: NamedSharding

    def labeled(self) -> "FeatureBank":
        """The bank without the unlabeled images; the indices of the others stay the same."""
        if np.all(self.labels >= 0):
            return self
        features, labels = self.subset
        has_label = self.labels >= 0

        def keep(index: Any) -> np.ndarray:
            rows = _rows(self.rows.shape, len(self.labels))[index]
            return np.where(has_label[rows], rows, -1)

        rows = jax.make_array_from_callback(self.rows.shape, _third_axis(self.sharding), keep)
        subset = LabeledFeatures(features[labels >= 0], labels[labels >= 0])
        return dataclasses.replace(self, rows=rows, subset=subset, count=int(np.sum(has_label)))

    def is_finite(self) -> bool:
        """Whether all features are finite."""
        return bool(_is_finite(self.features))


def extract_bank(
    apply: Callable[[Any, Batch], jax.Array],
    variables: Any,
    batches: Iterable[Batch],
    *,
    images: int,
    sharding: NamedSharding,
    max_subset: int = LARGE_SPLIT,
    block: int = 65536,
) -> FeatureBank:
    """Apply a frozen network to every image of a split, once, in order; keep the features on the devices.

    Args:
        apply, variables, batches: as for `extract_features`.
        images: number of images of the split.
        sharding: of the batches: splits the rows over the devices of a mesh.
        max_subset: maximum number of images whose features are on the host too: every k-th, with the smallest k.
        block: number of rows, on all devices together, that kNN compares at a time; at least a batch.

    Returns:
        `FeatureBank`; every process has the same `labels` and `subset`.

    Raises:
        ValueError: `batches` is empty.
    """
    every = -(-images // max_subset)
    features, batch_size = None, 0

    def computed() -> Iterator[tuple[int, jax.Array, jax.Array]]:
        nonlocal features, batch_size
        for step, batch in enumerate(batches):
            found = apply(variables, batch)
            if features is None:
                batch_size, dim = found.shape
                steps = min(max(1, block // batch_size), -(-images // batch_size))
                blocks = -(-images // (batch_size * steps))
                features = _zeros((blocks, steps, batch_size, dim), sharding)
            features = _put(features, found, step, sharding)
            start = step * batch_size
            places = np.arange(-start % every, min(batch_size, images - start), every)
            yield start, _take(found, places, sharding), batch["label"]

    labels, chosen = np.full(images, -1, np.int32), None
    for start, some, found in one_behind(computed()):
        if chosen is None:
            chosen = np.empty((-(-images // every), some.shape[1]), np.float32)
        first = -(-start // every)
        chosen[first : first + len(some)] = to_host(some)
        part = to_host(found)[: images - start]
        labels[start : start + len(part)] = part
    if features is None or chosen is None:
        raise ValueError("batches must hold at least one batch; got none")
    shape = features.shape[:3]
    rows = jax.make_array_from_callback(shape, _third_axis(sharding), lambda index: _rows(shape, images)[index])
    subset = LabeledFeatures(chosen, labels[::every])
    return FeatureBank(features, rows, labels, subset, every, images, sharding)


def _rows(shape: tuple[int, ...], images: int) -> np.ndarray:
    """The index of the image in each row of a bank, -1 after the last one: int32."""
    rows = np.arange(np.prod(shape), dtype=np.int32)
    return np.where(rows < images, rows, -1).reshape(shape)


def _third_axis(sharding: NamedSharding) -> NamedSharding:
    return NamedSharding(sharding.mesh, PartitionSpec(None, None, *sharding.spec))


@partial(jax.jit, static_argnames=("shape", "sharding"))
def _zeros(shape: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(jnp.zeros(shape, jnp.float16), _third_axis(sharding))


@partial(jax.jit, static_argnames="sharding", donate_argnums=0)
def _put(bank: jax.Array, features: jax.Array, step: int, sharding: NamedSharding) -> jax.Array:
    """Writes a batch into a bank, in place."""
    features = jax.lax.with_sharding_constraint(features, sharding)
    unit = l2_normalize(features.astype(jnp.float32)).astype(jnp.float16)
    bank = bank.at[step // bank.shape[1], step % bank.shape[1]].set(unit)
    return jax.lax.with_sharding_constraint(bank, _third_axis(sharding))


@partial(jax.jit, static_argnames="sharding")
def _take(features: jax.Array, places: np.ndarray, sharding: NamedSharding) -> jax.Array:
    some = features[places].astype(jnp.float32)
    return jax.lax.with_sharding_constraint(some, NamedSharding(sharding.mesh, PartitionSpec()))


@jax.jit
def _is_finite(features: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(features))
