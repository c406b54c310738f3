"""Patches against a loop over positions, in float64."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.smt.options import SMTOptions
from vicreg_jax.smt.patches import centered_patches, extract_patches
from vicreg_jax.smt.variants import image_variants

extracted = jax.jit(extract_patches, static_argnums=1)
centered = jax.jit(centered_patches, static_argnums=1)

# Image shapes and patch sizes: one patch, one row, not square, one channel.
SHAPES = [((2, 6, 5, 3), 3), ((1, 4, 4, 1), 4), ((3, 2, 7, 2), 2)]


def random_images(shape, seed=0, levels=256):
    return np.random.default_rng(seed).integers(0, levels, shape).astype(np.uint8)


def reference(images, size):
    """Patches `[images, rows, columns, size**2, channels]`, by a loop."""
    count, height, width, channels = images.shape
    rows, columns = height - size + 1, width - size + 1
    patches = np.zeros((count, rows, columns, size**2, channels), images.dtype)
    for n in range(count):
        for row in range(rows):
            for column in range(columns):
                patches[n, row, column] = images[n, row : row + size, column : column + size].reshape(-1, channels)
    return patches


def centered_reference(images, size):
    patches = reference(np.asarray(images, np.float64), size)
    patches -= patches.mean(axis=3, keepdims=True)
    return patches.reshape(len(images), -1, size**2 * images.shape[3])


@pytest.mark.parametrize(("shape", "size"), SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_all_patches_in_order(shape, size, dtype):
    images = random_images(shape).astype(dtype)
    patches = extracted(images, size)
    assert patches.dtype == dtype
    np.testing.assert_array_equal(patches, reference(images, size))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(case=st.sampled_from(SHAPES), levels=st.sampled_from([2, 20, 256]), seed=st.integers(0, 100))
def test_patches_are_centered_in_each_channel(case, levels, seed):
    shape, size = case
    images = random_images(shape, seed, levels)
    expected = centered_reference(images / 255, size)
    flat = np.linalg.norm(expected, axis=-1) < 1e-3
    for given_images, tolerance in ((images, 1e-7), (np.float32(images / 255), 3e-7)):
        found = np.asarray(centered(given_images, size))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=tolerance)
        np.testing.assert_array_equal(found[flat], 0)
        np.testing.assert_allclose(
            found.reshape(*found.shape[:2], size**2, -1).mean(axis=2), 0, atol=tolerance
        )  # of each channel


@pytest.mark.parametrize("as_float", [False, True])
def test_flat_patches_are_zero_unless_one_pixel_differs(as_float):
    """A patch is flat if each channel is constant; rounding of float means does not matter."""
    images = np.empty((4, 4, 4, 3), np.uint8)
    images[:] = np.array([[7, 77, 191], [1, 2, 3], [254, 253, 100], [99, 33, 11]])[:, None, None]
    images[3, 3, 3, 1] += 1
    found = np.asarray(centered(np.float32(images / 255) if as_float else images, 4))
    np.testing.assert_array_equal(found[:3], 0)
    np.testing.assert_allclose(np.linalg.norm(found[3]), np.sqrt(15 / 16) / 255, rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_variants(dtype):
    """The original, without color, mirrored, and both, for every combination of options."""
    images = random_images((2, 4, 5, 3))
    if dtype == np.float32:
        images = np.float32(images / 255)
    gray = np.zeros_like(images)
    for place in np.ndindex(images.shape[:3]):
        red, green, blue = images[place].astype(np.float64)
        level = 0.299 * red + 0.587 * green + 0.114 * blue
        gray[place] = round(level) if dtype == np.uint8 else level
    mirrored, mirrored_gray = images[:, :, ::-1], gray[:, :, ::-1]
    for flips, grayscale, expected in (
        (False, False, [images]),
        (True, False, [images, mirrored]),
        (False, True, [images, gray]),
        (True, True, [images, gray, mirrored, mirrored_gray]),
    ):
        options = SMTOptions(flips=flips, grayscale=grayscale)
        found = jax.jit(partial(image_variants, options=options))(images)
        assert found.dtype == dtype
        assert options.variants == len(expected)
        np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-6)
