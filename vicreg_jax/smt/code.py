"""Sparse binary codes: the atoms of the dictionary that are active on a patch."""

import jax
import jax.numpy as jnp

from vicreg_jax.smt.options import SMTOptions


def threshold_code(patches: jax.Array, dictionary: jax.Array, threshold: float) -> jax.Array:
    """Activates the atoms whose cosine with the patch is above a threshold; possibly none.

    Args:
        patches: whitened patches, `[..., dim]`, of unit norm or zero.
        dictionary: atoms, `[atoms, dim]`, of unit norm.
        threshold: threshold of the cosine.

    Returns:
        bool `[..., atoms]`.
    """
    return _cosines(patches, dictionary) > threshold


def nearest_code(patches: jax.Array, dictionary: jax.Array) -> jax.Array:
    """Activates the one atom with the largest cosine; none if the patch is zero.

    Args:
        patches: whitened patches, `[..., dim]`, of unit norm or zero.
        dictionary: atoms, `[atoms, dim]`, of unit norm.

    Returns:
        bool `[..., atoms]`.
    """
    cosines = _cosines(patches, dictionary)
    nearest = jax.nn.one_hot(jnp.argmax(cosines, axis=-1), len(dictionary), dtype=bool)
    return nearest & jnp.any(patches != 0, axis=-1, keepdims=True)


def threshold_or_nearest_code(patches: jax.Array, dictionary: jax.Array, threshold: float) -> jax.Array:
    """`threshold_code`, or `nearest_code` for patches without a cosine above the threshold."""
    active = threshold_code(patches, dictionary, threshold)
    return active | (nearest_code(patches, dictionary) & ~jnp.any(active, axis=-1, keepdims=True))


def code_patches(patches: jax.Array, dictionary: jax.Array, options: SMTOptions) -> jax.Array:
    """Codes whitened patches `[..., patch_dim]` as the options say: bool `[..., atoms]`."""
    if options.code == "nearest":
        return nearest_code(patches, dictionary)
    code = threshold_code if options.code == "threshold" else threshold_or_nearest_code
    return code(patches, dictionary, options.threshold)


def _cosines(patches: jax.Array, dictionary: jax.Array) -> jax.Array:
    return jnp.matmul(patches, dictionary.T, precision=jax.lax.Precision.HIGHEST)
