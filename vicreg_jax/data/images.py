"""Decoding an image to a square canvas, with Pillow."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps

from vicreg_jax.data.collection import Image

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_ORIENTATION = 0x0112  # EXIF tag: 1 is upright, 5 to 8 swap width and height


def decode_to_canvas(source: Image, canvas: int, channels: int) -> tuple[np.ndarray, float]:
    """Decodes a whole image, applies its EXIF orientation, and stretches it to a square.

    A JPEG much larger than the canvas is decoded at 1/2, 1/4 or 1/8 of its size, never below the canvas, which saves
    work. Pillow's antialiased bicubic filter does the rest of the resizing.

    Args:
        source: the bytes of an image file, its path, or uint8 gray pixels `[height, width]`.
        canvas: side of the square in pixels.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); see `to_channels`.

    Returns:
        uint8 `[canvas, canvas, channels]`, and width / height of the upright image.

    Raises:
        Exception: of many kinds, if Pillow cannot read the image.
    """
    with _open(source) as image:
        width, height = image.size
        image.draft(None, (canvas, canvas))
        image.load()  # before the orientation: Pillow turns a TIFF upright when it loads it
        orientation = _orientation(image)
        if orientation >= 5:
            width, height = height, width
        upright = PIL.ImageOps.exif_transpose(image) if orientation > 1 else image
        upright = to_channels(upright, channels)
        if upright.size != (canvas, canvas):
            upright = upright.resize((canvas, canvas), PIL.Image.Resampling.BICUBIC)
        return np.asarray(upright).reshape(canvas, canvas, channels), width / height


def to_channels(image: PIL.Image.Image, channels: int) -> PIL.Image.Image:
    """Converts an image to gray, RGB or RGBA with 8 bits per channel.

    Transparent pixels become white, unless there are 4 channels. Palettes, CMYK, YCbCr and similar modes become RGB;
    gray and RGB are converted into each other (ITU-R 601 luma). 16-bit gray is divided by 257, which keeps its full
    range.

    Raises:
        ValueError: the pixels are floating-point numbers, whose range is unknown.
    """
    if image.mode == "F":
        raise ValueError("image must have integer pixels; got floating-point pixels")
    if image.mode.startswith("I"):  # 'I;16' and its variants; Pillow opens some 16-bit files as 'I'
        gray = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = PIL.Image.fromarray(((gray + 128) // 257).astype(np.uint8))
    if channels != 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])


def _open(source: Image) -> PIL.Image.Image:
    if isinstance(source, np.ndarray):
        return PIL.Image.fromarray(source)
    return PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _orientation(image: PIL.Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block leaves the pixels readable
        return 1
