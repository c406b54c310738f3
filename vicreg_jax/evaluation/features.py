"""Features of a whole split, on the host."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Batch = Mapping[str, jax.Array]


def extract_features(
    apply: Callable[[Any, Batch], jax.Array], variables: Any, batches: Iterable[Batch]
) -> tuple[np.ndarray, np.ndarray]:
    """Applies a frozen network to every image of a split, once, in order.

    Args:
      apply: `(variables, batch) -> features [batch, dim]`; give it jitted.
      variables: what `apply` takes first.
      batches: dicts with `image`, `aspect_ratio`, `label` int32 `[batch]` (-1: none) and `mask` bool
        `[batch]`, False in rows that only fill up the batch; these are dropped. Arrays may be sharded over
        the devices of many processes: every process then gets all features.

    Returns:
      Features float32 `[images, dim]` and labels int32 `[images]`.

    Raises:
      ValueError: there is no batch.
    """
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    waiting = None
    for batch in batches:
        # The device computes this batch while the host fetches the one before.
        computed = apply(variables, batch), batch["label"], batch["mask"]
        if waiting is not None:
            kept.append(_fetch(*waiting))
        waiting = computed
    if waiting is None:
        raise ValueError("batches: got none, takes at least one")
    kept.append(_fetch(*waiting))
    features, labels = zip(*kept, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def raw_pixel_features(
    batches: Iterable[Batch], central_view: Callable[[jax.Array, jax.Array], jax.Array]
) -> tuple[np.ndarray, np.ndarray]:
    """The baseline without a network: the pixels of each image's central view, flattened.

    Args:
      batches: as for `extract_features`.
      central_view: `(image, aspect_ratio) -> [batch, size, size, channels]` float in [0, 1], not normalized:
        the view that the network is given, at a size that leaves a number of pixels a classifier can take (32
        or less).

    Returns:
      Features float32 `[images, size * size * channels]` and labels int32 `[images]`.
    """

    @jax.jit
    def pixels(_: None, batch: Batch) -> jax.Array:
        view = central_view(batch["image"], batch["aspect_ratio"])
        return view.reshape(len(view), -1)

    return extract_features(pixels, None, batches)


def _fetch(features: jax.Array, labels: jax.Array, mask: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    rows = _to_host(mask)
    return _to_host(features.astype(jnp.float32))[rows], _to_host(labels)[rows]


def _to_host(array: Any) -> np.ndarray:
    """The whole array, also where other processes hold parts of it."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
