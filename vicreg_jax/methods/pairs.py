"""Losses of two views for any number of views."""

from collections.abc import Callable
from typing import Any

import jax


def mean_over_pairs(loss: Callable[[int, int], Any], views: int, global_views: int) -> Any:
    r"""Average a loss of two views over all ordered pairs of a view and another, global one.

    .. math:: \frac{1}{G (V - 1)} \sum_{g \le G} \sum_{v \ne g} \ell(g, v)

    A pair of two global views counts in both orders, so it has twice the weight of a pair with a local view. The mean
    has the scale of the loss of two views, and is that loss if there are two.

    Args:
        loss: The loss of two views by their numbers, the first one global: a scalar or a pytree of scalars. It is
            called for one order only of two global views, and must be the mean of both.
        views: V, the number of views, the global ones first.
        global_views: G, the number of global views.

    Returns:
        What `loss` returns.

    Raises:
        ValueError: If there are fewer than two views, or `global_views` is not from 1 to their number.

    Source: facebookresearch/VICRegL, `main_vicregl.py`, for two global views.
    """
    if views < 2:
        raise ValueError(f"views must be at least 2; got {views}")
    if not 1 <= global_views <= views:
        raise ValueError(f"global_views must be from 1 to the {views} views; got {global_views}")
    pairs = [(g, v) for g in range(global_views) for v in range(g + 1, views)]
    count = global_views * (views - 1)
    weights = [(2 if v < global_views else 1) / count for _, v in pairs]

    def mean(*losses: jax.Array) -> jax.Array:
        total = weights[0] * losses[0]
        for weight, each in zip(weights[1:], losses[1:], strict=True):
            total += weight * each
        return total

    return jax.tree.map(mean, *(loss(g, v) for g, v in pairs))
