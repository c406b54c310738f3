"""Antialiased resampling of a box, with one weight matrix for the rows and one for the columns."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def _triangle(x: jax.Array) -> jax.Array:
    return jnp.maximum(0.0, 1.0 - jnp.abs(x))


def _cubic(x: jax.Array) -> jax.Array:
    """Keys' cubic convolution kernel with a = -0.5, as in Pillow (PyTorch and OpenCV have -0.75)."""
    a, x = -0.5, jnp.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0))


KERNELS = {"bilinear": _triangle, "bicubic": _cubic}


def resample_weights(
    start: ArrayLike,
    length: ArrayLike,
    *,
    source: int,
    target: int,
    interpolation: str,
    read: tuple[ArrayLike, ArrayLike],
    flip: ArrayLike = False,
) -> jax.Array:
    """Compute the matrix that resamples an interval of a line of pixels.

    Output i has its center at c_i = start + (i + 1/2) s with s = length / target. The weight of pixel j is
    k((j + 1/2 - c_i) / max(s, 1)) times the fraction of the pixel that lies in `read`, and each row is normalized to
    sum to 1. Pillow's antialiasing is the widening of the kernel k by max(s, 1).

    Args:
        start: Start of the interval in pixels, fractions allowed; scalar.
        length: Length of the interval in pixels, fractions allowed; scalar.
        source: Number of pixels of the line.
        target: Number of pixels of the result.
        interpolation: A key of `KERNELS`.
        read: The interval in pixels that may be read. The interval itself gives torchvision's crop followed by resize,
            the whole line its resize followed by crop.
        flip: Whether to reverse the result.

    Returns:
        float32 [target, source].

    Source: Pillow, src/libImaging/Resample.c, precompute_coeffs.
    """
    index = jnp.arange(target, dtype=jnp.float32)
    index = jnp.where(flip, target - 1 - index, index)
    pixel = jnp.arange(source, dtype=jnp.float32)[None]
    scale = length / target
    center = start + (index + 0.5) * scale
    weights = KERNELS[interpolation]((pixel + 0.5 - center[:, None]) / jnp.maximum(scale, 1.0))
    low, high = read
    weights *= jnp.clip(jnp.minimum(pixel + 1.0, high) - jnp.maximum(pixel, low), 0.0, 1.0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def separable(rows: jax.Array, columns: jax.Array, image: jax.Array) -> jax.Array:
    """Compute `rows @ plane @ columns.T` for every channel: [channels, h, w] -> [channels, len(rows), len(columns)].

    The weights are mostly zeros, yet two dense products, on matrix units if available, are faster on every backend than
    gathers and than one convolution kernel per image. The precision is "high" because a single bfloat16 pass would
    round the weights to half a gray level.
    """
    lines = jnp.einsum("oh,chw->cow", rows, image, precision="high")
    return jnp.einsum("pw,cow->cop", columns, lines, precision="high")
