"""A number for every array of a state that any damaged bit changes, the same on any mesh."""

from typing import Any

import jax
import jax.numpy as jnp


def fingerprint(tree: Any) -> jax.Array:
    """Sums, modulo 2^32, of a hash of each entry's bits and place.

    Integers add up to the same in any order, so it depends neither on the devices nor on how the arrays are split.

    Args:
      tree: arrays, on any devices.

    Returns:
      uint32 `[arrays]`, in the order of `jax.tree.leaves`.
    """
    return jnp.stack([_sum_of_bits(jnp.asarray(leaf)) for leaf in jax.tree.leaves(tree)])


def _sum_of_bits(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * min(array.dtype.itemsize, 4)}"))
    # One iota an axis: an index over the whole array would overflow, and would have to be gathered where it is split.
    place = jnp.uint32(1)
    for axis in range(bits.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = _mix(place + index)
    return jnp.sum(_mix(bits.astype(jnp.uint32) ^ place), dtype=jnp.uint32)


def _mix(words: jax.Array) -> jax.Array:
    """A bijection of 32-bit words in which every bit in moves every bit out: one changed entry changes the sum.

    Source: the multipliers are those of Wellons, "Prospecting for hash functions" (2018), lowbias32.
    """
    words = (words ^ (words >> 16)) * jnp.uint32(0x7FEB352D)
    words = (words ^ (words >> 15)) * jnp.uint32(0x846CA68B)
    return words ^ (words >> 16)
