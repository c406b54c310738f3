"""All patches of images, one per position, and their centering."""

import jax
import jax.numpy as jnp

# Centered patches of a smaller norm are flat. One pixel that is off by one of 255 gray levels gives a norm of 0.004.
MIN_NORM = 1e-3


def extract_patches(images: jax.Array, patch_size: int) -> jax.Array:
    """Extracts all patches at stride 1.

    Args:
        images: `[images, height, width, channels]`.
        patch_size: side of a patch in pixels, at most height and width.

    Returns:
        `[images, rows, columns, patch_size**2, channels]` in the dtype of the images, where
        `rows = height - patch_size + 1` and `columns = width - patch_size + 1`.
    """
    rows, columns = (size - patch_size + 1 for size in images.shape[1:3])
    strips = jnp.stack([images[:, top : top + rows] for top in range(patch_size)], axis=3)
    patches = jnp.stack([strips[:, :, left : left + columns] for left in range(patch_size)], axis=4)
    return patches.reshape(len(images), rows, columns, patch_size**2, images.shape[3])


def center(patches: jax.Array) -> jax.Array:
    """Subtracts each patch's mean in each channel; flat patches become exactly zero.

    Args:
        patches: `[..., pixels, channels]`, uint8, or float in [0, 1].

    Returns:
        float32 `[..., pixels * channels]`, for pixels in [0, 1].
    """
    pixels = patches.shape[-2]
    if patches.dtype == jnp.uint8:
        # Integers below 2**24 are exact in float32 up to the division, so that a constant patch gives zero.
        patches = patches.astype(jnp.float32)
        centered = (pixels * patches - jnp.sum(patches, axis=-2, keepdims=True)) / (255 * pixels)
    else:
        patches = patches.astype(jnp.float32)
        centered = patches - jnp.mean(patches, axis=-2, keepdims=True)
    centered = centered.reshape(*patches.shape[:-2], -1)
    return jnp.where(jnp.linalg.norm(centered, axis=-1, keepdims=True) < MIN_NORM, 0.0, centered)


def centered_patches(images: jax.Array, patch_size: int) -> jax.Array:
    """Extracts all patches and centers them.

    Args:
        images: `[images, height, width, channels]`, uint8, or float in [0, 1].
        patch_size: side of a patch in pixels, at most height and width.

    Returns:
        float32 `[images, patches, patch_size**2 * channels]`, the patches in row-major order.
    """
    patches = extract_patches(images, patch_size)
    return center(patches.reshape(len(images), -1, *patches.shape[3:]))
