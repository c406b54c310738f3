"""The square root of a sum of squares, safe at zero."""

import jax.numpy as jnp
from jax import Array


def safe_sqrt(x: Array) -> Array:
    """Compute the square root with derivative zero at zero, as a norm's subgradient.

    >>> import jax
    >>> print(safe_sqrt(jnp.array([4.0, 0.0])), jax.grad(safe_sqrt)(0.0))
    [2. 0.] 0.0

    Args:
        x: any shape, float32 or wider, not negative. Below the root of the smallest number (1e-19 in float32) it is
            taken as zero: its second derivative would overflow.

    Returns:
        The same shape and dtype.
    """
    is_zero = x < jnp.finfo(x.dtype).tiny ** 0.5
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, x)))
