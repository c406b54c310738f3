"""Antialiased resampling of a box, as a weight matrix for the rows and one for the columns."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def _triangle(x: jax.Array) -> jax.Array:
    return jnp.maximum(0.0, 1.0 - jnp.abs(x))


def _cubic(x: jax.Array) -> jax.Array:
    """Keys' cubic convolution kernel with a = -0.5, Pillow's choice (PyTorch's and OpenCV's is -0.75)."""
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
    """The matrix that resamples `source` pixels in [start, start + length] to `target` pixels.

    Output i lies at c_i = start + (i + 1/2) s with s = length / target; the weight of pixel j is
    k((j + 1/2 - c_i) / max(s, 1)) times the share of the pixel that lies in `read`, and each row sums to 1.
    Widening the kernel k by max(s, 1) is Pillow's antialiasing.

    Args:
        start, length: the interval in pixels, fractions allowed; scalars.
        source, target: numbers of pixels.
        interpolation: a key of `KERNELS`.
        read: the interval in pixels that may be read. The box itself gives torchvision's crop and then
            resize, the whole axis its resize and then crop.
        flip: reverse the outputs.

    Returns:
        float32 [target, source].

    Source: Pillow, src/libImaging/Resample.c, precompute_coeffs.
    """
    index = jnp.arange(target, dtype=jnp.float32)
    index = jnp.where(flip, target - 1 - index, index)
    pixel = jnp.arange(source, dtype=jnp.float32)
    scale = length / target
    center = start + (index + 0.5) * scale
    weights = KERNELS[interpolation]((pixel + 0.5 - center[:, None]) / jnp.maximum(scale, 1.0))
    low, high = read
    weights *= jnp.clip(jnp.minimum(pixel + 1.0, high) - jnp.maximum(pixel, low), 0.0, 1.0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def separable(rows: jax.Array, columns: jax.Array, image: jax.Array) -> jax.Array:
    """`rows @ plane @ columns.T` for every channel: [channels, h, w] -> [channels, len(rows), len(columns)].

    Two dense products, on the matrix units where there are any: the weights are mostly zeros, yet gathers and
    one convolution kernel per image are slower on every back end. Precision "high" because one pass of
    bfloat16 would round the weights to half a gray level.
    """
    lines = jnp.einsum("oh,chw->cow", rows, image, precision="high")
    return jnp.einsum("pw,cow->cop", columns, lines, precision="high")
