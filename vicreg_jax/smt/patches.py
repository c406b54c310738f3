"""All patches of an image, one a position, without their mean."""

import jax
import jax.numpy as jnp

# A patch whose length is below this, of pixels in [0, 1], is flat: one pixel off by one gray level of 255 has 0.004.
FLAT = 1e-3


def extract_patches(images: jax.Array, patch_size: int) -> jax.Array:
    """Every patch, at stride 1.

    Args:
      images: `[images, height, width, channels]`.
      patch_size: side of a patch in pixels, at most height and width.

    Returns:
      `[images, rows, columns, patch_size**2, channels]`, `rows = height - patch_size + 1` and `columns` alike; the
      dtype is kept.
    """
    rows, columns = (size - patch_size + 1 for size in images.shape[1:3])
    strips = jnp.stack([images[:, top : top + rows] for top in range(patch_size)], axis=3)
    patches = jnp.stack([strips[:, :, left : left + columns] for left in range(patch_size)], axis=4)
    return patches.reshape(len(images), rows, columns, patch_size**2, images.shape[3])


def center(patches: jax.Array) -> jax.Array:
    """Patches of pixels in [0, 1], each less its mean in each channel; exactly zero where the patch is flat.

    Args:
      patches: `[..., pixels, channels]`, uint8, or float in [0, 1].

    Returns:
      float32 `[..., pixels * channels]`.
    """
    pixels = patches.shape[-2]
    if patches.dtype == jnp.uint8:
        # Integers below 2**24: nothing is rounded before the division, and a constant patch is zero.
        patches = patches.astype(jnp.float32)
        centered = (pixels * patches - jnp.sum(patches, axis=-2, keepdims=True)) / (255 * pixels)
    else:
        patches = patches.astype(jnp.float32)
        centered = patches - jnp.mean(patches, axis=-2, keepdims=True)
    centered = centered.reshape(*patches.shape[:-2], -1)
    return jnp.where(jnp.linalg.norm(centered, axis=-1, keepdims=True) < FLAT, 0.0, centered)


def centered_patches(images: jax.Array, patch_size: int) -> jax.Array:
    """Every patch of images as for `extract_patches`, by `center`.

    Returns:
      float32 `[images, patches, patch_size**2 * channels]`, patches in rows from the top left.
    """
    patches = extract_patches(images, patch_size)
    return center(patches.reshape(len(images), -1, *patches.shape[3:]))
