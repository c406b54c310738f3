"""Features of a whole split, on the host."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.data import Batch

Item = TypeVar("Item")


class LabeledFeatures(NamedTuple):
    """Features float32 `[images, dim]` and labels int32 `[images]` of a split; label -1 means unlabeled."""

    features: np.ndarray
    labels: np.ndarray


def extract_features(
    apply: Callable[[Any, Batch], jax.Array], variables: Any, batches: Iterable[Batch]
) -> LabeledFeatures:
    """Apply a frozen network to every image of a split, once, in order.

    Args:
        apply: `(variables, batch) -> features [batch, dim]`; pass a jitted function.
        variables: first argument of `apply`.
        batches: dicts with `image`, `aspect_ratio`, `label` int32 `[batch]` (-1: unlabeled) and `mask` bool `[batch]`,
            False in padding rows, which are dropped. Arrays may be sharded over the devices of many processes; every
            process then gets all features.

    Returns:
        `LabeledFeatures`: features float32 `[images, dim]` and labels int32 `[images]`.

    Raises:
        ValueError: `batches` is empty.
    """
    fetched = list(feature_batches(apply, variables, batches))
    if not fetched:
        raise ValueError("batches must hold at least one batch; got none")
    features, labels = zip(*fetched, strict=True)
    return LabeledFeatures(np.concatenate(features), np.concatenate(labels))


def feature_batches(
    apply: Callable[[Any, Batch], jax.Array], variables: Any, batches: Iterable[Batch]
) -> Iterator[LabeledFeatures]:
    """Yield what `extract_features` concatenates, batch by batch, for splits whose features do not fit in memory.

    Args:
        apply, variables, batches: as for `extract_features`.
    """
    computed = ((apply(variables, batch), batch["label"], batch["mask"]) for batch in batches)
    for features, labels, mask in one_behind(computed):
        rows = to_host(mask)
        yield LabeledFeatures(to_host(features.astype(jnp.float32))[rows], to_host(labels)[rows])


def one_behind(computed: Iterable[Item]) -> Iterator[Item]:
    """Yield each item after the next has been taken: the device computes that one while the host fetches this one."""
    items = iter(computed)
    for previous in items:
        for item in items:
            yield previous
            previous = item
        yield previous


def raw_pixel_features(
    batches: Iterable[Batch], central_view: Callable[[jax.Array, jax.Array], jax.Array]
) -> LabeledFeatures:
    """Flatten the pixels of each image's central view: the baseline without a network.

    Args:
        batches: as for `extract_features`.
        central_view: as for `raw_pixels`.

    Returns:
        `LabeledFeatures`: features float32 `[images, size * size * channels]` and labels int32 `[images]`.
    """
    return extract_features(raw_pixels(central_view), None, batches)


def raw_pixels(
    central_view: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[[Any, Batch], jax.Array]:
    """The function that `raw_pixel_features` applies to each batch, for `extract_features`; it has no variables.

    Args:
        central_view: `(image, aspect_ratio) -> [batch, size, size, channels]`, float in [0, 1], not normalized: the
            view that the network sees, at a size that a classifier can handle (32 or less).
    """

    @jax.jit
    def pixels(_: Any, batch: Batch) -> jax.Array:
        view = central_view(batch["image"], batch["aspect_ratio"])
        return view.reshape(len(view), -1)

    return pixels


def to_host(array: Any) -> np.ndarray:
    """The whole array, including the shards of other processes."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
