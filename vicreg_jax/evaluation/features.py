"""Features of a whole split, on the host."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.data import Batch


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
    pending = None
    for batch in batches:
        # The device computes this batch while the host fetches the previous one.
        computed = apply(variables, batch), batch["label"], batch["mask"]
        if pending is not None:
            yield _fetch(*pending)
        pending = computed
    if pending is not None:
        yield _fetch(*pending)


def raw_pixel_features(
    batches: Iterable[Batch], central_view: Callable[[jax.Array, jax.Array], jax.Array]
) -> LabeledFeatures:
    """Flatten the pixels of each image's central view: the baseline without a network.

    Args:
        batches: as for `extract_features`.
        central_view: `(image, aspect_ratio) -> [batch, size, size, channels]`, float in [0, 1], not normalized: the
            view that the network sees, at a size that a classifier can handle (32 or less).

    Returns:
        `LabeledFeatures`: features float32 `[images, size * size * channels]` and labels int32 `[images]`.
    """

    @jax.jit
    def pixels(_: None, batch: Batch) -> jax.Array:
        view = central_view(batch["image"], batch["aspect_ratio"])
        return view.reshape(len(view), -1)

    return extract_features(pixels, None, batches)


def _fetch(features: jax.Array, labels: jax.Array, mask: jax.Array) -> LabeledFeatures:
    rows = _to_host(mask)
    return LabeledFeatures(_to_host(features.astype(jnp.float32))[rows], _to_host(labels)[rows])


def _to_host(array: Any) -> np.ndarray:
    """The whole array, including the shards of other processes."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
