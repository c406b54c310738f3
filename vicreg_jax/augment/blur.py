"""Gaussian blur with repeated edge pixels, as two matrix products."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vicreg_jax.augment.resample import separable

TRUNCATE = 4.0  # standard deviations


def blur_weights(sigma: ArrayLike, *, size: int, max_sigma: float) -> jax.Array:
    """Compute the matrix that blurs a line of pixels.

    The Gaussian is sampled at whole pixels up to ceil(4 `max_sigma`) from the center, and normalized. Beyond an end of
    the line the end pixel is repeated.

    Args:
        sigma: Standard deviation in pixels, at most `max_sigma`; 0 gives the identity.
        size: Number of pixels.
        max_sigma: Sets the size of the program.

    Returns:
        float32 [size, size]; every row sums to 1.
    """
    radius = math.ceil(TRUNCATE * max_sigma)
    # places[d, i, j]: number of taps at distance d from output i that read pixel j.
    places = np.zeros((radius + 1, size, size), np.float32)
    line = np.arange(size)
    for offset in range(-radius, radius + 1):
        places[abs(offset), line, np.clip(line + offset, 0, size - 1)] += 1.0
    distances = jnp.arange(radius + 1, dtype=jnp.float32)
    taps = jnp.exp(-0.5 * (distances / jnp.maximum(sigma, 1e-3)) ** 2)
    taps /= 2.0 * jnp.sum(taps) - taps[0]
    return jnp.einsum("d,dij->ij", taps, places, precision="highest")


def blur(image: jax.Array, sigma: ArrayLike, *, max_sigma: float) -> jax.Array:
    """Blur one image [channels, size, size]; the arguments are those of `blur_weights`."""
    weights = blur_weights(sigma, size=image.shape[-1], max_sigma=max_sigma)
    return separable(weights, weights, image)
