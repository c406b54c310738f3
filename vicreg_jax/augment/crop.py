"""Random and central crops: the box of the image that a view shows, and its resampling.

A box is (top, left, height, width) as fractions of the image's height and width. It is therefore the same in the
original image and on the canvas, to which the image is stretched.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vicreg_jax.augment.resample import resample_weights, separable

ATTEMPTS = 10
BOX_UNIFORMS = 2 * ATTEMPTS + 2


def random_box(
    uniforms: jax.Array,
    aspect_ratio: ArrayLike,
    crop_area: tuple[float, float],
    crop_ratio: tuple[float, float],
) -> jax.Array:
    """Draw the box of torchvision's `RandomResizedCrop`, without its rounding to whole pixels.

    With the fraction of the area a ~ U(crop_area), log r ~ U(log crop_ratio) and the image's aspect ratio A, the box is
    sqrt(a r / A) wide and sqrt(a A / r) high, at a uniformly random position. The result is the first of ten draws that
    fits into the image or, if none fits, the largest central box with a ratio in `crop_ratio`.

    Args:
        uniforms: [BOX_UNIFORMS] independent numbers, uniform in [0, 1).
        aspect_ratio: width / height of the original image, scalar.
        crop_area: See `View`.
        crop_ratio: See `View`.

    Returns:
        float32 [4]: top, left, height, width, in [0, 1].

    Source: torchvision, transforms.RandomResizedCrop.get_params.
    """
    area_uniforms, ratio_uniforms, position = jnp.split(uniforms, [ATTEMPTS, 2 * ATTEMPTS])
    area = crop_area[0] + area_uniforms * (crop_area[1] - crop_area[0])
    low, high = map(math.log, crop_ratio)
    relative_ratio = jnp.exp(low + ratio_uniforms * (high - low)) / aspect_ratio
    sizes = jnp.sqrt(jnp.stack([area / relative_ratio, area * relative_ratio]))
    fits = jnp.all(sizes <= 1.0, axis=0)
    found = jnp.any(fits)
    closest = jnp.clip(aspect_ratio, *crop_ratio) / aspect_ratio
    fallback = jnp.minimum(1.0, jnp.stack([1.0 / closest, closest]))
    size = jnp.where(found, sizes[:, jnp.argmax(fits)], fallback)
    return jnp.concatenate([jnp.where(found, position, 0.5) * (1.0 - size), size])


def central_box(aspect_ratio: ArrayLike, central_fraction: float) -> jax.Array:
    """The box of the central square.

    Args:
        aspect_ratio: width / height of the original image, scalar.
        central_fraction: Side of the square, as a fraction of the shorter side of the image.

    Returns:
        float32 [4]: top, left, height, width, in [0, 1].

    Example:
        >>> central_box(2.0, 0.5).tolist()
        [0.25, 0.375, 0.5, 0.25]
    """
    ratio = jnp.asarray(aspect_ratio, jnp.float32)
    size = central_fraction * jnp.stack([jnp.minimum(1.0, ratio), jnp.minimum(1.0, 1.0 / ratio)])
    return jnp.concatenate([(1.0 - size) / 2.0, size])


def crop(
    image: jax.Array,
    box: jax.Array,
    *,
    image_size: int,
    interpolation: str,
    read_outside: bool,
    flip: ArrayLike = False,
) -> jax.Array:
    """Resample a box of an image to a square view.

    Args:
        image: [channels, height, width], values from 0 to 255; a canvas, or the original image.
        box: [4] from `random_box` or `central_box`.
        image_size: Side of the view in pixels.
        interpolation: "bilinear" or "bicubic".
        read_outside: Whether the antialiasing kernel may read pixels outside of the box.
        flip: Whether to mirror the view left to right.

    Returns:
        float32 [channels, image_size, image_size] in [0, 1]; overshoots of the kernel are clipped.
    """

    def weights(pixels: int, start: jax.Array, length: jax.Array, flip: ArrayLike) -> jax.Array:
        start, length = start * pixels, length * pixels
        return resample_weights(
            start,
            length,
            source=pixels,
            target=image_size,
            interpolation=interpolation,
            read=(0.0, pixels) if read_outside else (start, start + length),
            flip=flip,
        )

    (top, left, height, width), (_, image_height, image_width) = box, image.shape
    rows, columns = weights(image_height, top, height, False), weights(image_width, left, width, flip)
    return jnp.clip(separable(rows, columns, image.astype(jnp.float32)) / 255.0, 0.0, 1.0)
