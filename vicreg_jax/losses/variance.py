"""The variance of each dimension over the global batch."""

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from vicreg_jax.losses.centering import centered
from vicreg_jax.losses.mapped_axis import axis_sum


# With a rule of its own the derivative is centered as the embeddings are: it saves one pass over them.
@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def variances(z: Array, divisor: float, axis_name: Hashable | None) -> Array:
    """Sum of squares of each centered dimension over the global batch, over a divisor.

    Args:
        z: `[batch, dim]`, float32 or wider.
        divisor: N - 1 for the unbiased variance, N for the biased one.
        axis_name: None if `z` is the global batch, else the mapped axis it is a shard of.

    Returns:
        `[dim]` in the dtype of `z`, the same on every device.
    """
    return _over_batch(jnp.square(centered(z, axis_name)), divisor, axis_name)


@variances.defjvp
def _variances_jvp(
    divisor: float, axis_name: Hashable | None, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    x = centered(primals[0], axis_name)
    tangent = _over_batch(x * tangents[0], divisor / 2, axis_name)
    return _over_batch(jnp.square(x), divisor, axis_name), tangent


def _over_batch(products: Array, divisor: float, axis_name: Hashable | None) -> Array:
    return axis_sum(jnp.sum(products, axis=0), axis_name) / divisor
