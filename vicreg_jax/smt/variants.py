"""Variants of training images: mirrored, and without color."""

import jax
import jax.numpy as jnp

from vicreg_jax.smt.options import SMTOptions

_LUMA = (0.299, 0.587, 0.114)


def image_variants(images: jax.Array, options: SMTOptions) -> jax.Array:
    """The variants of images, the original first.

    Args:
        images: `[n, height, width, channels]`.
        options: settings of the transform.

    Returns:
        `[n, variants, height, width, channels]`, in the dtype of the images.
    """
    variants = [images]
    if options.grayscale:
        luma = jnp.array(_LUMA)[None, None, None]
        gray = jnp.sum(images.astype(luma.dtype) * luma, axis=-1, keepdims=True)
        if images.dtype == jnp.uint8:
            gray = jnp.round(gray)
        variants.append(jnp.broadcast_to(gray.astype(images.dtype), images.shape))
    if options.flips:
        variants += [variant[:, :, ::-1] for variant in variants]
    return jnp.stack(variants, axis=1)
