"""Sparse codes: which atoms of the dictionary a patch is like."""

import jax
import jax.numpy as jnp

from vicreg_jax.smt.options import SMTOptions


def threshold_code(patches: jax.Array, dictionary: jax.Array, threshold: float) -> jax.Array:
    """The atoms whose cosine with the patch is above the threshold; none may be.

    Args:
      patches: whitened, at unit length or zero, `[..., dim]`.
      dictionary: at unit length, `[atoms, dim]`.
      threshold: on the cosine.

    Returns:
      bool `[..., atoms]`.
    """
    return _cosines(patches, dictionary) > threshold


def nearest_code(patches: jax.Array, dictionary: jax.Array) -> jax.Array:
    """The atom with the largest cosine, and no other; none for a patch of zeros. Arguments as for `threshold_code`."""
    cosines = _cosines(patches, dictionary)
    nearest = jnp.argmax(cosines, axis=-1, keepdims=True) == jnp.arange(len(dictionary))
    return nearest & jnp.any(patches != 0, axis=-1, keepdims=True)


def threshold_or_nearest_code(patches: jax.Array, dictionary: jax.Array, threshold: float) -> jax.Array:
    """`threshold_code`, and the nearest atom where no cosine is above the threshold."""
    active = threshold_code(patches, dictionary, threshold)
    return active | (nearest_code(patches, dictionary) & ~jnp.any(active, axis=-1, keepdims=True))


def code_patches(patches: jax.Array, dictionary: jax.Array, options: SMTOptions) -> jax.Array:
    """Whitened patches `[..., patch_dim]` -> bool `[..., atoms]`, by the code of the options."""
    if options.code == "nearest":
        return nearest_code(patches, dictionary)
    code = threshold_code if options.code == "threshold" else threshold_or_nearest_code
    return code(patches, dictionary, options.threshold)


def _cosines(patches: jax.Array, dictionary: jax.Array) -> jax.Array:
    return jnp.matmul(patches, dictionary.T, precision=jax.lax.Precision.HIGHEST)
