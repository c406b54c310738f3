"""The two operations of ResNet's ImageNet stem, each with a form for GPUs.

cuDNN is slow on images of 3 channels, and XLA's gradient of max-pooling searches every window again and then scatters.
On one H100 (512 images of 224 px, bfloat16, gradients included) the convolution took 6.4 ms and takes 3.4, max-pooling
took 6.0 and took 4.1 with nine terms in its gradient (benchmarks/results/gpu_stem.json). On TPUs the textbook forms are
the faster ones.

In training in 16 bits, max-pooling comes before BatchNorm and ReLU on both, see `normalized_max_pool`.
"""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from vicreg_jax.models import mixed_precision
from vicreg_jax.models.batch_norm import mean_and_variance


def stem_conv(dtype: DTypeLike) -> dict[str, Any]:
    """Arguments of `nn.Conv` for 7x7 with stride 2 and padding 3, for a computation in `dtype`."""
    arguments = mixed_precision.conv(dtype)
    plain = arguments.get("conv_general_dilated", lax.conv_general_dilated)

    def convolve(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
        def direct(x: Array, kernel: Array) -> Array:
            return plain(x, kernel, strides, padding, **options)

        def in_blocks(x: Array, kernel: Array) -> Array:
            return plain(blocks_of(x), kernel_of_blocks(kernel), (1, 1), ((2, 1), (2, 1)), **options)

        if not _is_even(x):
            return direct(x, kernel)
        return lax.platform_dependent(x, kernel, cuda=in_blocks, default=direct)

    return arguments | {"conv_general_dilated": convolve}


def blocks_of(x: Array) -> Array:
    """Blocks of 2x2 pixels, `[batch, height, width, channels]` -> `[batch, height / 2, width / 2, 4 channels]`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)


def kernel_of_blocks(kernel: Array) -> Array:
    """A 7x7 kernel with stride 2 as a 4x4 kernel with stride 1 over `blocks_of`.

    Output i reads pixels 2 i - 3 to 2 i + 3. With a zero in front they are 2 i - 4 to 2 i + 3: blocks i - 2 to i + 1.
    """
    *_, channels, filters = kernel.shape
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, filters).swapaxes(1, 2)
    return kernel.reshape(4, 4, 4 * channels, filters)


def normalized_max_pool(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """Compute BatchNorm, ReLU and max-pooling, with the maxima taken first.

    The textbook form, with means over all axes but the channels:

        y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias
        return max_pool(relu(y))

    BatchNorm and ReLU keep the order of a channel's values, or turn it around where the scale is negative. So a quarter
    of the pixels is normalized, and the largest activation of the network is written once.

    Args:
        x: `[batch, height, width, channels]`.
        scale: float32 `[channels]`.
        bias: float32 `[channels]`.
        epsilon: Added to the variance.

    Returns:
        The result, in the dtype of x; float32 `[channels]` mean and biased variance of x.
    """
    sign = jnp.where(scale < 0, -1.0, 1.0)
    x = x * sign.astype(x.dtype)
    mean, var = mean_and_variance(x, (0, 1, 2))
    y = (max_pool(x) - mean) * (lax.rsqrt(var + epsilon) * sign * scale) + bias
    return nn.relu(y.astype(x.dtype)), sign * mean, var


def max_pool(x: Array) -> Array:
    """The maximum of 3x3 windows with stride 2 and padding 1; the gradient goes to the first maximum of a window."""
    if not _is_even(x):
        return max_pool_textbook(x)
    return lax.platform_dependent(x, cuda=max_pool_by_places, default=max_pool_textbook)


def max_pool_textbook(x: Array) -> Array:
    """`max_pool`, with XLA's gradient."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


@jax.custom_vjp
def max_pool_by_places(x: Array) -> Array:
    """`max_pool` of an even height and width, whose gradient knows the place of each maximum in its window."""
    return _maximum_and_place(x)[0]


def _maximum_and_place(x: Array) -> tuple[Array, Array]:
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    pixels = (
        lax.slice(x, (0, i, j, 0), (batch, i + height, j + width, channels), (1, 2, 2, 1))
        for i, j in itertools.product(range(3), repeat=2)
    )
    maximum = next(pixels)
    place = jnp.zeros(maximum.shape, jnp.uint8)
    for number, pixel in enumerate(pixels, start=1):
        place = jnp.where(pixel > maximum, jnp.uint8(number), place)
        maximum = jnp.maximum(maximum, pixel)
    return maximum, place


def _backward(place: Array, g: Array) -> tuple[Array]:
    """Pixel 2 o + p, p 0 or 1, is number p + 1 of window o, and number 0 of window o + 1 where p is 1."""
    batch, height, width, channels = g.shape
    number = np.array([[1, 2], [9, 0]])  # in a row or column: [next window or not, p]; 9: not in it
    last = ((0, 0), (0, 1), (0, 1), (0, 0))
    place, g = jnp.pad(place, last, constant_values=9), jnp.pad(g, last)
    zero = jnp.zeros((), g.dtype)
    total = zero
    for i, j in itertools.product(range(2), repeat=2):
        window = slice(None), slice(i, i + height), None, slice(j, j + width), None
        pixel = 3 * number[i][:, None] + number[j]
        total += jnp.where(place[window] == pixel.astype(np.uint8)[:, None, :, None], g[window], zero)
    return (total.reshape(batch, 2 * height, 2 * width, channels),)


max_pool_by_places.defvjp(_maximum_and_place, _backward)


def _is_even(x: Array) -> bool:
    return x.shape[1] % 2 == x.shape[2] % 2 == 0
