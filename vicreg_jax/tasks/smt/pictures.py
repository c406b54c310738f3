"""Atoms and embeddings of a transform as tiles of an image, for the report."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.smt.code import code_patches
from vicreg_jax.smt.patches import centered_patches
from vicreg_jax.smt.transform import SMT
from vicreg_jax.smt.whitening import whiten

_MAX_SIDE = 64  # pixels; larger images are downscaled
_CHUNK = 1024  # patches whose codes are in memory at a time
_LOW, _HIGH = (58, 122, 214), (222, 112, 38)  # below and above zero, readable on light and dark pages
_NO_VALUE = (128, 128, 128, 26)

_codes = jax.jit(code_patches, static_argnames="options")


def embed_patches(smt: SMT, patches: np.ndarray) -> np.ndarray:
    """Embed patches.

    Args:
        smt: the fitted transform, as numpy arrays.
        patches: whitened patches `[n, patch_dim]`.

    Returns:
        Embeddings float32 `[n, embedding_dim]`, of unit length, or zero where the code is zero.
    """
    chunks = np.array_split(patches, range(_CHUNK, len(patches), _CHUNK))
    dictionary = jnp.asarray(smt.dictionary)
    codes = (np.asarray(_codes(chunk, dictionary, smt.options), np.float32) for chunk in chunks)
    return _normalize_rows(np.concatenate([code @ smt.projection.T for code in codes]))


def _normalize_rows(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def image_tiles(images: np.ndarray) -> np.ndarray:
    """Convert images to tiles, with the channels that `image_element` shows.

    Args:
        images: uint8 `[n, height, width, channels]`.

    Returns:
        uint8 `[n, height, width, 4]`: red, green, blue, opacity.
    """
    colors = images[..., :3] if images.shape[3] >= 3 else images[..., :1].repeat(3, axis=3)
    return np.concatenate([colors, np.full_like(colors[..., :1], 255)], axis=3)


def patch_tiles(patches: np.ndarray, side: int) -> np.ndarray:
    """Convert patches to tiles, zero as mid-gray, each scaled to full contrast.

    Args:
        patches: `[n, side * side * channels]`.
        side: height and width of a patch, in pixels.

    Returns:
        uint8 `[n, side, side, 4]`, as from `image_tiles`.
    """
    largest = np.abs(patches).max(axis=1, keepdims=True)
    pixels = np.round(127.5 + 127.5 * patches / np.where(largest > 0, largest, 1)).astype(np.uint8)
    return image_tiles(pixels.reshape(len(pixels), side, side, -1))


def unwhitened_atoms(smt: SMT) -> np.ndarray:
    """The atoms `[atoms, patch_dim]` in pixel space, up to scale, float64."""
    return np.linalg.solve(smt.whitening.astype(np.float64), smt.dictionary.T.astype(np.float64)).T


def diverging_tiles(values: np.ndarray) -> np.ndarray:
    """Convert values to tiles of two colors, by sign, with opacity by magnitude.

    Args:
        values: `[n, height, width]`, clipped to [-1, 1]; NaN is gray.

    Returns:
        uint8 `[n, height, width, 4]`: red, green, blue, opacity.
    """
    colors = np.where(values[..., None] < 0, _LOW, _HIGH)
    opacity = np.round(np.clip(np.abs(np.nan_to_num(values)), 0, 1) * 51) * 5  # quantized, for a smaller file
    tiles = np.concatenate([colors, opacity[..., None]], axis=-1)
    return np.where(np.isnan(values)[..., None], _NO_VALUE, tiles).astype(np.uint8)


def downscale(images: np.ndarray) -> np.ndarray:
    """Average images `[n, height, width, channels]` over squares, down to sides of at most `_MAX_SIDE`."""
    factor = -(-max(images.shape[1:3]) // _MAX_SIDE)
    rows, columns = (max(1, size // factor) for size in images.shape[1:3])
    cut = images[:, : rows * factor, : columns * factor]
    return cut.reshape(len(cut), rows, -1, columns, cut.shape[2] // columns, cut.shape[3]).mean(axis=(2, 4))


def embedded_images(smt: SMT, images: np.ndarray, dimensions: int) -> np.ndarray:
    """Compute the pooled embedding at every position of images.

    Args:
        smt: the fitted transform, as numpy arrays.
        images: uint8 `[images, height, width, channels]`, of the transform's input size.
        dimensions: number of leading dimensions to keep.

    Returns:
        float32 `[images, height, width, dimensions]`: each pooling window's mean at its center, NaN at the border.
    """
    rows, columns = smt.options.patch_grid(smt.image_shape)
    window = smt.options.pool_window
    border = (smt.options.patch_size + window - 2) // 2
    values = np.full((*images.shape[:3], dimensions), np.nan, np.float32)
    for value, image in zip(values, images, strict=True):
        patches = np.asarray(_whitened_patches(image, smt.whitening, patch_size=smt.options.patch_size))
        embedded = embed_patches(smt, patches)[:, :dimensions].reshape(rows, columns, -1)
        windows = np.lib.stride_tricks.sliding_window_view(embedded, (window, window), axis=(0, 1))
        value[border : border + len(windows), border : border + windows.shape[1]] = windows.mean(axis=(-2, -1))
    return values


@partial(jax.jit, static_argnames="patch_size")
def _whitened_patches(image: jax.Array, whitening: jax.Array, *, patch_size: int) -> jax.Array:
    return whiten(centered_patches(image[None], patch_size)[0], whitening)
