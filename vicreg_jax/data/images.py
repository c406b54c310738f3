"""Decoding an image to a square canvas: JPEG with libjpeg-turbo, every other format with Pillow."""

import functools
import importlib.util
import io
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from vicreg_jax.data.collection import MAX_PIXELS, Canvas, Image
from vicreg_jax.data.jpeg_header import plain_size

FULL_RANGE = (0.0, 65535.0)  # of 16 bits

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_JPEG_SUFFIXES = (".jpg", ".jpeg")
_ORIENTATION = 0x0112  # EXIF tag: 1 is upright, 5 to 8 swap width and height
# Pillow keeps the high byte of 16-bit colors. Read in the other byte order, the same data give the low byte.
_LOW_BYTES = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
_pillows_limit = threading.Lock()


def decode_to_canvas(
    source: Image,
    canvas: int,
    channels: int,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> tuple[np.ndarray, float]:
    """Decodes an image to a new canvas, see `decode_into`.

    Args:
        source: see `vicreg_jax.data.collection.Image`.
        canvas: side of the square in pixels.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); see `to_channels`.
        value_range, max_pixels: see `decode_into`.

    Returns:
        uint8 `[canvas, canvas, channels]`, and width / height of the upright image.

    Raises:
        Exception: of many kinds, see `decode_into`.
    """
    pixels = np.empty((canvas, canvas, channels), np.uint8)
    return pixels, decode_into(pixels, source, value_range, max_pixels)


def decode_into(
    pixels: np.ndarray,
    source: Image | Canvas,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> float:
    """Decodes a whole image, stretches it to a square, and applies its EXIF orientation.

    A JPEG much larger than the canvas is decoded at a half of its size or less, never below the canvas, which saves
    work. `stretch` does the rest of the resizing.

    Args:
        pixels: the canvas, uint8 `[canvas, canvas, channels]`, contiguous; it is overwritten.
        source: see `vicreg_jax.data.collection.Image`.
        value_range: the values that become 0 and 255 in images of more than 8 bits; None: the full range of 16 bits,
            and no floating-point pixels.
        max_pixels: of an image.

    Returns:
        Width / height of the upright image.

    Raises:
        Exception: of many kinds, if the image is larger, has floating-point pixels without a `value_range`, or cannot
            be read by Pillow.
    """
    canvas, _, channels = pixels.shape
    if isinstance(source, Canvas):
        decode_into(pixels, source.image, value_range, max_pixels)
        return source.aspect_ratio
    if isinstance(source, np.ndarray) and (source.shape[2] if source.ndim == 3 else 1) == channels:
        stretch(source, pixels)
        return source.shape[1] / source.shape[0]
    if isinstance(source, Path) and source.suffix.lower() in _JPEG_SUFFIXES:
        source = source.read_bytes()
    size = plain_size(source) if isinstance(source, bytes) else None
    if size is not None and size[0] * size[1] <= max_pixels:
        decoded = _decode_jpeg(source, canvas, channels)
        if decoded is not None:
            stretch(decoded, pixels)
            return size[0] / size[1]
    with open_image(source, max_pixels) as image:
        aspect_ratio = image.width / image.height
        is_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")
        decoded = _decode_jpeg(source, canvas, channels) if is_jpeg else None
        if decoded is None:
            image.draft(None, (canvas, canvas))
            deep = deep_pixels(image, source)
            decoded = np.asarray(to_channels(image if deep is None else _to_eight_bits(deep, value_range), channels))
        orientation = _orientation(image)  # after loading: Pillow turns a TIFF upright when it loads it
    stretch(decoded, pixels)
    if orientation > 1:
        pixels[...] = _upright(pixels, orientation).copy()
    return 1 / aspect_ratio if orientation >= 5 else aspect_ratio


def stretch(pixels: np.ndarray, canvas: np.ndarray) -> None:
    """Resizes an image to a square: bilinear interpolation of the two nearest pixels, in each direction.

    A side of more than two canvases is averaged to the canvas's side first, so that no pixel is passed over.

    Args:
        pixels: uint8 `[height, width]` or `[height, width, channels]`.
        canvas: uint8 `[side, side, channels]`, contiguous; it is overwritten.
    """
    (height, width), (side, _, channels) = pixels.shape[:2], canvas.shape
    if height == width == side:
        canvas[...] = pixels.reshape(canvas.shape)
        return
    cv2 = _opencv()
    near = tuple(side if length > 2 * side else length for length in (width, height))
    if near != (width, height):
        pixels = cv2.resize(pixels, near, interpolation=cv2.INTER_AREA)
    written = canvas if channels > 1 else canvas.reshape(side, side)
    cv2.resize(pixels, (side, side), dst=written, interpolation=cv2.INTER_LINEAR)


def open_image(source: Image, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """Opens an image, without decoding it.

    Raises:
        PIL.Image.DecompressionBombError: it has more than `max_pixels` pixels.
        Exception: of many kinds, if Pillow cannot read the image.
    """
    if isinstance(source, np.ndarray):
        return PIL.Image.fromarray(source)
    register_heif()
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        image: PIL.Image.Image = PIL.Image.open(file)
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        if max_pixels <= MAX_PIXELS:
            raise
        image = _open_above_pillows_limit(file)
    if image.width * image.height > max_pixels:
        image.close()
        raise PIL.Image.DecompressionBombError(f"image must have at most {max_pixels} pixels; got size {image.size}")
    return image


def deep_pixels(image: PIL.Image.Image, source: Image) -> np.ndarray | None:
    """Loads an image; returns its pixels if they have more than 8 bits.

    Args:
        image: of `open_image`.
        source: what it was opened from.

    Returns:
        `[height, width]` (gray) or `[height, width, 3 or 4]`, of any dtype but uint8; None for an image of 8 bits.
    """
    rawmodes = {_rawmode(tile) for tile in getattr(image, "tile", ())}
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):  # 'I;16' and its variants; 'I' has 32 bits
        return np.asarray(image)
    if not rawmodes or not rawmodes <= _LOW_BYTES.keys() or image.mode not in ("RGB", "RGBA"):
        return None
    with open_image(source, image.width * image.height) as low:
        _read_low_bytes(low)
        low.load()
        return (np.asarray(image).astype(np.uint16) << 8) | np.asarray(low)


def is_deep(image: PIL.Image.Image) -> bool:
    """Whether an image of `open_image`, not yet loaded, has more than 8 bits per channel."""
    rawmodes = {_rawmode(tile) for tile in getattr(image, "tile", ())}
    return image.mode == "F" or image.mode.startswith("I") or bool(rawmodes & _LOW_BYTES.keys())


def scale_to_uint8(values: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Maps the two values of the range to 0 and 255, linearly; clips what is beyond them, and NaN becomes 0."""
    low, high = value_range
    scaled = values.astype(np.result_type(values.dtype, np.float32))
    scaled -= low
    scaled *= 255 / (high - low)
    np.nan_to_num(scaled, copy=False, nan=0, posinf=255, neginf=0)
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)


def to_channels(image: PIL.Image.Image, channels: int) -> PIL.Image.Image:
    """Converts an image of 8 bits to gray, RGB or RGBA.

    Transparent pixels become white, unless there are 4 channels. Palettes, CMYK, YCbCr and similar modes become RGB;
    gray and RGB are converted into each other (ITU-R 601 luma).
    """
    if channels != 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])


@functools.cache
def register_heif() -> bool:
    """Lets Pillow read HEIC files where the package pillow-heif is installed; returns whether it is."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def _decode_jpeg(source: Image, canvas: int, channels: int) -> np.ndarray | None:
    """The pixels of a gray or color JPEG, at its size or less, by libjpeg-turbo; None for what Pillow must read."""
    if channels == 4:
        return None
    import simplejpeg

    data = source.read_bytes() if isinstance(source, Path) else source
    space = "GRAY" if channels == 1 else "RGB"
    try:
        # Scales between 1 and 1/2 take longer than decoding all pixels.
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, space, min_height=canvas, min_width=canvas, min_factor=2)
    except ValueError:  # of a damaged file; Pillow tells whether it can be read
        return None
    return pixels


@functools.cache
def _opencv() -> Any:
    import cv2

    cv2.setNumThreads(1)  # the loader has threads of its own
    return cv2


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns stored pixels `[height, width, channels]` by their EXIF orientation, 2 to 8; a view."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = (-1 if orientation in turned else 1 for turned in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return pixels[::rows, ::columns]


def _to_eight_bits(pixels: np.ndarray, value_range: tuple[float, float] | None) -> PIL.Image.Image:
    if value_range is None and pixels.dtype.kind == "f":
        raise ValueError("value_range must be two numbers for floating-point pixels; got None")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        color, alpha = scale_to_uint8(pixels[..., :3], value_range or FULL_RANGE), pixels[..., 3:]
        return PIL.Image.fromarray(np.concatenate([color, scale_to_uint8(alpha, FULL_RANGE)], axis=2))
    return PIL.Image.fromarray(scale_to_uint8(pixels, value_range or FULL_RANGE))


def _open_above_pillows_limit(file: io.BytesIO | Path) -> PIL.Image.Image:
    with _pillows_limit:  # of the whole process
        limit = PIL.Image.MAX_IMAGE_PIXELS
        PIL.Image.MAX_IMAGE_PIXELS = None
        try:
            return PIL.Image.open(file)
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def _rawmode(tile: Any) -> str:
    """The layout of the data of a part of a file, such as 'RGB;16B'."""
    args = tile[3]
    return args if isinstance(args, str) else str(args[0]) if args else ""


def _read_low_bytes(image: Any) -> None:
    image.tile = [
        tile._replace(args=low if isinstance(tile.args, str) else (low, *tile.args[1:]))
        for tile in image.tile
        for low in [_LOW_BYTES[_rawmode(tile)]]
    ]


def _orientation(image: PIL.Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block leaves the pixels readable
        return 1
