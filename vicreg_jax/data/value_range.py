"""From pixels of more than 8 bits to uint8: which values become 0 and 255."""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from vicreg_jax.data.collection import MAX_PIXELS, Image
from vicreg_jax.data.images import FULL_RANGE, deep_pixels, open_image, scale_to_uint8

_PERCENTILES = (0.1, 99.9)  # dead pixels and glare do not count
_SAMPLED = 64  # images
_PIXELS_PER_IMAGE = 2**14
_FEW_LEVELS = 32


class ValueRange(NamedTuple):
    """What `resolve_value_range` finds.

    Attributes:
        bounds: the values that become 0 and 255; None: the full range of 16 bits, and no floating-point pixels.
        flat: the number of sampled images whose values collapse to under 32 of the 256 levels.
        sampled: the number of sampled images.
    """

    bounds: tuple[float, float] | None
    flat: int
    sampled: int


def to_uint8(images: np.ndarray, value_range: tuple[float, float] | str | None = "dtype") -> np.ndarray:
    """Maps pixels to uint8 as a dataset with this `value_range` does, for an encoder trained on it.

    Args:
        images: of any shape. uint8 pixels are returned as they are.
        value_range: the values that become 0 and 255, such as `Dataset.value_range`; values beyond are clipped, and NaN
            becomes 0. 'dtype' or None: the full range of uint16.

    Returns:
        uint8, of the same shape.

    Raises:
        TypeError: the pixels are not numbers, or not 16-bit and `value_range` is 'dtype' or None.
        ValueError: `value_range` is something else.

    >>> to_uint8(np.array([7300, 7750, 8200], np.uint16), (7300, 8200))
    array([  0, 128, 255], dtype=uint8)
    """
    check_value_range(value_range, ("dtype",))
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "uif":
        raise TypeError(f"images must be numbers; got dtype {images.dtype}")
    if value_range is None or isinstance(value_range, str):
        if images.dtype != np.uint16:
            raise TypeError(f"images must be uint8 or uint16 without a value_range; got dtype {images.dtype}")
        value_range = FULL_RANGE
    return scale_to_uint8(images, value_range)


def check_value_range(value_range: tuple[float, float] | str | None, names: Sequence[str]) -> None:
    """Refuses anything but one of the names, None, and two rising numbers.

    Raises:
        ValueError: see above.
    """
    if value_range is None or (isinstance(value_range, str) and value_range in names):
        return
    with suppress(TypeError, ValueError):
        low, high = map(float, value_range)
        if not isinstance(value_range, str) and -math.inf < low < high < math.inf:
            return
    raise ValueError(f"value_range must be {', '.join(names)}, or two rising numbers; got {value_range!r}")


def resolve_value_range(values: Sequence[np.ndarray], value_range: tuple[float, float] | str) -> ValueRange:
    """Finds the values that become 0 and 255 in a dataset.

    Args:
        values: of images of the whole dataset; see `sampled_values`.
        value_range: two rising numbers; 'auto': the percentiles 0.1 and 99.9 of the values; 'dtype': the full
            range of 16 bits.

    Raises:
        ValueError: `value_range` is something else; or 'dtype', and some values are floating-point numbers; or two
            numbers, and there are no values: no image has more than 8 bits.
    """
    check_value_range(value_range, ("auto", "dtype"))
    if not values:
        if isinstance(value_range, str):
            return ValueRange(None, 0, 0)
        raise ValueError(
            f"value_range must be 'auto' or 'dtype' for images of 8 bits, which are taken as they are; "
            f"got {value_range!r}"
        )
    bounds: tuple[float, float] | None = None
    if not isinstance(value_range, str):
        bounds = value_range
    elif value_range == "auto":
        bounds = _bounds(values)
    if bounds is None and any(found.dtype.kind == "f" for found in values):
        raise ValueError(f"value_range must be 'auto' or two numbers for floating-point images; got {value_range!r}")
    flat = sum(
        len(np.unique(scale_to_uint8(found, bounds or FULL_RANGE))) < _FEW_LEVELS <= len(np.unique(found))
        for found in values
    )
    return ValueRange(None if bounds is None else (float(bounds[0]), float(bounds[1])), flat, len(values))


def sampled_values(images: Sequence[Image], max_pixels: int = MAX_PIXELS) -> list[np.ndarray]:
    """Some pixels of each of some images, evenly spread over a sequence; always the same ones.

    Images of 8 bits, and those that cannot be read, do not count.

    Args:
        images: of the whole dataset.
        max_pixels: of an image; a larger one counts as unreadable.

    Returns:
        `[pixels]` for each image that counts, in its own dtype.
    """
    count = min(_SAMPLED, len(images))
    found = (_values_of(images[index * len(images) // count], max_pixels) for index in range(count))
    return [values for values in found if values is not None and len(values)]


def few_levels(found: ValueRange) -> tuple[str, ...]:
    """A sentence where most of the sampled images lose their contrast."""
    if 2 * found.flat <= found.sampled:
        return ()
    low, high = found.bounds or FULL_RANGE
    return (
        f"little contrast: {found.flat} of {found.sampled} sampled images use under {_FEW_LEVELS} of 256 levels "
        f"in value_range=({low:g}, {high:g})",
    )


def _bounds(values: Sequence[np.ndarray]) -> tuple[float, float]:
    low, high = np.percentile(np.concatenate(values).astype(np.float64), _PERCENTILES)
    if all(found.dtype.kind != "f" for found in values):
        low, high = np.floor(low), np.ceil(high)
    return float(low), float(high if high > low else low + 1)


def _values_of(source: Image, max_pixels: int) -> np.ndarray | None:
    """Some pixels of an image of more than 8 bits; None for another image."""
    try:
        with open_image(source, max_pixels) as image:
            pixels = deep_pixels(image, source)
    except Exception:  # Pillow's plugins raise errors of all kinds for malformed files
        return None
    if pixels is None:
        return None
    values = pixels[..., :3].ravel() if pixels.ndim == 3 else pixels.ravel()
    if len(values) > _PIXELS_PER_IMAGE:
        values = values[np.random.default_rng(0).integers(0, len(values), _PIXELS_PER_IMAGE)]
    return values[np.isfinite(values)]
