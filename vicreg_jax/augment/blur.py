"""Gaussian blur with edge pixels repeated, as the product with one matrix from either side."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vicreg_jax.augment.resample import separable

TRUNCATE = 4.0


def blur_weights(sigma: ArrayLike, *, size: int, highest_sigma: float) -> jax.Array:
    """The matrix that blurs a line of `size` pixels: float32 [size, size], rows sum to 1.

    The Gaussian is sampled at whole pixels up to ceil(4 `highest_sigma`) from the center and normalized.
    What falls beyond an end counts for the end pixel. A sigma of 0 gives the identity.
    """
    radius = math.ceil(TRUNCATE * highest_sigma)
    # places[d, i, j] = how many of the taps at distance d from output i read pixel j.
    places = np.zeros((radius + 1, size, size), np.float32)
    line = np.arange(size)
    for offset in range(-radius, radius + 1):
        places[abs(offset), line, np.clip(line + offset, 0, size - 1)] += 1.0
    taps = jnp.exp(-0.5 * (jnp.arange(radius + 1) / jnp.maximum(sigma, 1e-3)) ** 2)
    taps /= 2.0 * jnp.sum(taps) - taps[0]
    return jnp.einsum("d,dij->ij", taps, places, precision="highest")


def blur(image: jax.Array, sigma: ArrayLike, *, highest_sigma: float) -> jax.Array:
    """Blur one image [channels, size, size] with standard deviation `sigma` <= `highest_sigma` pixels."""
    weights = blur_weights(sigma, size=image.shape[-1], highest_sigma=highest_sigma)
    return separable(weights, weights, image)
