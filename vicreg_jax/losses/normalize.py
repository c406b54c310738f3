"""Row normalization, safe at zero and at any scale."""

import jax.numpy as jnp
from jax import Array, lax


def l2_normalize(z: Array) -> Array:
    r"""Divide each row by its Euclidean norm.

    .. math:: \hat z_n = z_n / \|z_n\|

    The textbook form, whose squares overflow or underflow for large or small rows, and which is NaN at zero:

    >>> import jax
    >>> z = jax.random.normal(jax.random.key(0), (4, 5))
    >>> textbook = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    >>> bool(jnp.allclose(l2_normalize(z), textbook, rtol=1e-5))
    True

    Here each row is first divided by its largest absolute entry. If the square of that entry underflows (below 1e-19
    in float32), the row has no meaningful direction: the result and its gradient are zero.

    Args:
        z: `[batch, dim]`, float32 or wider.

    Returns:
        `[batch, dim]` in the dtype of `z`; each row has norm one or is zero. Nothing is reduced over the batch.
    """
    tiny = jnp.finfo(z.dtype).tiny
    # The direction does not depend on the scale, so no gradient is lost.
    max_entry = lax.stop_gradient(jnp.max(jnp.abs(z), axis=1, keepdims=True))
    is_zero = max_entry < tiny**0.5
    # At most 1 / tiny: the compiler divides by multiplying with reciprocals, and flushes subnormal ones to zero.
    scaled = jnp.where(is_zero, 0, z / jnp.where(is_zero, 1, jnp.minimum(max_entry, 1 / tiny)))
    return scaled * lax.rsqrt(jnp.sum(scaled * scaled, axis=1, keepdims=True) + is_zero.astype(z.dtype))
