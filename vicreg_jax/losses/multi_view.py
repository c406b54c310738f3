"""Invariance of many views, LeJEPA's (Balestriero, LeCun, arXiv 2511.08544)."""

from collections.abc import Hashable
from numbers import Integral

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import as_batch_of_views


def multi_view_invariance(
    z: ArrayLike, *, global_views: int, where: ArrayLike | None = None, axis_name: Hashable | None = None
) -> Array:
    r"""Mean squared distance of every view from the mean of the global views.

    .. math:: \frac{1}{V N D} \sum_v \| Z_v - \bar Z \|_F^2, \qquad \bar Z = \frac{1}{G} \sum_{v \le G} Z_v

    No gradient is stopped. If two views are both global, it is a quarter of `invariance_term`.

    Args:
        z: embeddings of all views, `[views, batch, dim]`, two views or more, the global ones first; any floating dtype.
        global_views: G, at least 1 and at most the number of views. Static.
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If no row
            counts, the value is 0.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which the rows are sharded. Average the parameter gradients over it (`lax.pmean`).

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over views, the global batch and dimensions; the
        same on every device.

    Raises:
        TypeError: if the dtype is not floating-point.
        ValueError: if the shape is not `[views, batch, dim]` with at least two views, or `global_views` is not an
            integer from 1 to the number of views.

    Source: paper, section 5; rbalestr-lab/lejepa, `MINIMAL.md`.

    >>> z = jnp.array([[[1.0, 2.0]], [[3.0, 4.0]], [[2.0, 5.0]]])  # three views of one image
    >>> print(f"{multi_view_invariance(z, global_views=2):.3f}")
    1.333

    The textbook form:

    >>> print(f"{jnp.mean((z - jnp.mean(z[:2], axis=0)) ** 2):.3f}")
    1.333
    """
    batch, views = as_batch_of_views(where, axis_name, z)
    if not isinstance(global_views, Integral) or not 1 <= global_views <= len(views):
        raise ValueError(f"global_views must be an integer from 1 to the {len(views)} views; got {global_views!r}")
    stacked = jnp.stack(views)
    return batch.mean(jnp.square(stacked - jnp.mean(stacked[:global_views], axis=0)[None]))
