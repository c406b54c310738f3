"""Color operations on one image: [channels, height, width] float32 in [0, 1].

Channels come first, so that every operation works on whole planes. With channels last, the same programs are about
twice as slow on a CPU.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vicreg_jax.augment.recipes import View

BRIGHTNESS, CONTRAST, SATURATION = range(3)
JITTER_UNIFORMS = 9  # applied or not, order (3), factors (3), position of the hue, hue shift


def luminance(image: jax.Array) -> jax.Array:
    """ITU-R 601 luma, 0.299 R + 0.587 G + 0.114 B: [height, width]. Without 3 channels, the mean over the channels."""
    if image.shape[0] != 3:
        return jnp.mean(image, axis=0)
    red, green, blue = image
    return 0.299 * red + 0.587 * green + 0.114 * blue


def adjust(image: jax.Array, operations: jax.Array, factors: jax.Array) -> jax.Array:
    """Change brightness, contrast and saturation, in the order of `operations`.

    All three are clip(factor * image + (1 - factor) * base, 0, 1), as in Pillow's `ImageEnhance`. The base is 0 for
    brightness, the mean luminance of the image for contrast, and the luminance of the pixel for saturation. A factor of
    1 changes nothing.

    Args:
        image: [channels, height, width] in [0, 1].
        operations: int32 [n], each BRIGHTNESS, CONTRAST or SATURATION.
        factors: float32 [n].
    """

    def apply(image: jax.Array, change: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        operation, factor = change
        gray = luminance(image)
        base = jnp.where(operation == SATURATION, gray, jnp.where(operation == CONTRAST, jnp.mean(gray), 0.0))
        return jnp.clip(factor * image + (1.0 - factor) * base[None], 0.0, 1.0), None

    return jax.lax.scan(apply, image, (operations, factors))[0]


def shift_hue(image: jax.Array, shift: ArrayLike) -> jax.Array:
    """Shift the hue of an image with 3 channels in HSV, by `shift` turns of the color circle.

    With the value v (largest channel), the chroma c and the hue h in sixths of a turn, each channel is
    v - c clip(min(k, 4 - k), 0, 1) with k = (n + h) mod 6 and n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = image
    value = jnp.max(image, axis=0)
    chroma = value - jnp.min(image, axis=0)
    scale = 1.0 / jnp.where(chroma > 0.0, chroma, 1.0)
    hue = jnp.where(
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2.0 + (blue - red) * scale, 4.0 + (red - green) * scale),
    )
    hue += 6.0 * shift

    def channel(n: int) -> jax.Array:
        k = n + hue
        k -= 6.0 * jnp.floor(k / 6.0)  # jnp.mod is several times slower on CPUs
        return value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

    return jnp.stack([channel(n) for n in (5, 3, 1)])


class Jitter(NamedTuple):
    """One random draw of the color jitter.

    Attributes:
        operations: int32 [n], the order of brightness, contrast and saturation.
        factors: float32 [n], the factor of each operation.
        hue_position: int32 in [0, n]; the hue is shifted before the operation with this number.
        hue_shift: float32, in turns of the color circle; None if the hue never changes.
    """

    operations: jax.Array
    factors: jax.Array
    hue_position: jax.Array
    hue_shift: jax.Array | None


def random_jitter(uniforms: jax.Array, view: View, channels: int) -> Jitter:
    """Draw the color jitter of one image, without operations whose strength is 0 or that need 3 channels.

    Args:
        uniforms: [JITTER_UNIFORMS] independent numbers, uniform in [0, 1).
        view: Strengths and probability of the jitter.
        channels: Number of channels of the image.
    """
    strengths = np.array([view.brightness, view.contrast, view.saturation if channels == 3 else 0.0], np.float32)
    (present,) = np.nonzero(strengths)
    low, high = np.maximum(0.0, 1.0 - strengths), 1.0 + strengths
    applied = uniforms[0] < view.jitter_probability
    order = jnp.argsort(uniforms[1:4][present])
    factors = jnp.where(applied, low + uniforms[4:7] * (high - low), 1.0)
    shift = jnp.where(applied, view.hue * (2.0 * uniforms[8] - 1.0), 0.0)
    return Jitter(
        operations=jnp.asarray(present)[order],
        factors=factors[present][order],
        hue_position=jnp.floor(uniforms[7] * (len(present) + 1)).astype(jnp.int32),
        hue_shift=shift if channels == 3 and view.hue > 0 else None,
    )


def jitter(image: jax.Array, draw: Jitter) -> jax.Array:
    """Change brightness, contrast, saturation and hue in the drawn order.

    The order differs between images, and under `vmap` every branch of a switch would run. So the hue shift, the
    expensive operation, runs once, between two passes over the others. In each pass, the operations that belong to the
    other pass have factor 1.
    """
    if draw.hue_shift is None:
        return adjust(image, draw.operations, draw.factors)
    first = jnp.arange(len(draw.operations)) < draw.hue_position
    image = adjust(image, draw.operations, jnp.where(first, draw.factors, 1.0))
    image = shift_hue(image, draw.hue_shift)
    return adjust(image, draw.operations, jnp.where(first, 1.0, draw.factors))


def grayscale(image: jax.Array, applied: ArrayLike) -> jax.Array:
    """Replace each of 3 channels by the luminance if `applied`."""
    return jnp.where(applied, luminance(image), image)


def solarize(image: jax.Array, threshold: float, applied: ArrayLike) -> jax.Array:
    """Invert the values that reach `threshold` when rounded to 8 bits, as Pillow does, if `applied`."""
    return jnp.where(applied & (image >= threshold - 0.5 / 255.0), 1.0 - image, image)
