"""Random directions, the slices of SIGReg and VISReg."""

from numbers import Integral

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from vicreg_jax.losses.normalize import l2_normalize


def random_directions(key: ArrayLike, slices: int, z: Array) -> Array:
    """Draw directions uniformly from the unit sphere; they depend on the key alone, so every device has the same.

    >>> z = jnp.zeros((8, 5))
    >>> directions = random_directions(jax.random.key(0), 3, z)
    >>> directions.shape, bool(jnp.allclose(jnp.linalg.norm(directions, axis=1), 1))
    ((3, 5), True)

    Args:
        key: a PRNG key.
        slices: how many.
        z: embeddings `[batch, dim]`, for dimension and dtype.

    Returns:
        `[slices, dim]` in the dtype of `z`: Gaussian, drawn in float32 so that float64 embeddings have the same
        directions, and normalized.

    Raises:
        TypeError: if `key` is not a PRNG key.
        ValueError: if `slices` is not a positive integer.
    """
    if not isinstance(slices, Integral) or slices < 1:
        raise ValueError(f"slices must be a positive integer; got {slices!r}")
    normal = jax.random.normal(as_key(key), (int(slices), z.shape[1]), jnp.float32)
    return l2_normalize(lax.stop_gradient(normal.astype(z.dtype)))


def as_key(key: ArrayLike) -> Array:
    """Check that `key` is one PRNG key, typed or of the older kind (`jax.random.PRNGKey`).

    Raises:
        TypeError: if it is not.
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    is_typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (is_typed and shape == ()) and not (dtype == jnp.uint32 and shape in ((2,), (4,))):
        got = repr(key) if dtype is None else f"dtype {dtype} and shape {shape}"
        raise TypeError(f"key must be one PRNG key, as from jax.random.key; got {got}")
    return jnp.asarray(key)
