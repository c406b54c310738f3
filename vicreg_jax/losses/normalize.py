"""Rows of length one, safely at zero and at any scale."""

import jax.numpy as jnp
from jax import Array, lax


def l2_normalize(z: Array) -> Array:
    """Divide each row by its Euclidean length.

    A row is first divided by its largest entry, so that squares neither overflow nor vanish. Where that entry's own
    square would vanish (below 1e-19 in float32) there is no direction to speak of: such a row and its gradient are
    zero.

    Args:
        z: `[batch, dim]`, float32 or wider.

    Returns:
        `[batch, dim]` in the dtype of `z`, rows of length one or zero.
    """
    tiny = jnp.finfo(z.dtype).tiny
    # A constant to the derivative: the direction does not depend on it.
    largest = lax.stop_gradient(jnp.max(jnp.abs(z), axis=1, keepdims=True))
    is_zero = largest < tiny**0.5
    # No more than 1 / tiny, for the compiler divides by reciprocals, and flushes subnormal ones to zero.
    scaled = jnp.where(is_zero, 0, z / jnp.where(is_zero, 1, jnp.minimum(largest, 1 / tiny)))
    return scaled * lax.rsqrt(jnp.sum(scaled * scaled, axis=1, keepdims=True) + is_zero)
