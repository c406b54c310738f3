"""The blur against a float64 convolution, and against Pillow's approximation."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter

from vicreg_jax.augment.blur import blur, blur_weights


def reference_blur(image: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """Separable convolution of [size, size] with the normalized samples of a Gaussian, edges repeated."""
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        padded = np.pad(image, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        image = np.apply_along_axis(np.convolve, axis, padded, taps, mode="valid")
    return image


@pytest.mark.parametrize(
    ("size", "sigma"),
    [pytest.param(5, 0.1, marks=pytest.mark.slow), (8, 2.0), pytest.param(33, 0.7, marks=pytest.mark.slow)],
)
def test_blur_matches_a_gaussian_convolution(size, sigma) -> None:
    image = np.random.default_rng(0).random((2, size, size))
    expected = [reference_blur(plane, sigma, radius=8) for plane in image]
    ours = blur(jnp.asarray(image, jnp.float32), sigma, max_sigma=2.0)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_sigma_zero_is_the_identity() -> None:
    np.testing.assert_array_equal(blur_weights(0.0, size=9, max_sigma=2.0), np.eye(9))


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_blur_is_close_to_pillows(photographs, sigma) -> None:
    for photograph in photographs:
        picture = photograph[150:278, 250:378]
        expected = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma))
        image = jnp.moveaxis(jnp.asarray(picture, jnp.float32) / 255, -1, 0)
        ours = np.moveaxis(np.asarray(blur(image, sigma, max_sigma=2.0)), 0, -1)
        difference = np.abs(ours * 255 - np.asarray(expected, np.float32))
        assert difference.mean() < 1.0
        assert difference[8:-8, 8:-8].max() < 10  # at the edges Pillow repeats pixels three times over
