"""One number per array of a state: any damaged bit changes it, and it is the same on any mesh."""

from typing import Any

import jax
import jax.numpy as jnp


def fingerprint(tree: Any) -> jax.Array:
    """The sum, modulo 2^32, of a hash of every entry's bits and index.

    A sum of integers does not depend on its order, hence not on the devices or the sharding.

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
    # One iota per axis: a flat index would overflow, and would have to be gathered where the array is split.
    place = jnp.uint32(1)
    for axis in range(bits.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = _mix(place + index)
    return jnp.sum(_mix(bits.astype(jnp.uint32) ^ place), dtype=jnp.uint32)


def _mix(words: jax.Array) -> jax.Array:
    """A bijection of 32-bit words in which every input bit affects every output bit: one changed entry changes the sum.

    Source: the multipliers are those of Wellons, "Prospecting for hash functions" (2018), lowbias32.
    """
    words = (words ^ (words >> 16)) * jnp.uint32(0x7FEB352D)
    words = (words ^ (words >> 15)) * jnp.uint32(0x846CA68B)
    return words ^ (words >> 16)
