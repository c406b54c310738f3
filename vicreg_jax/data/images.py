"""Encoded image -> square canvas, with Pillow."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_ORIENTATION = 0x0112  # the EXIF tag: 1 is upright, 5 to 8 lie on their side


def decode_to_canvas(encoded: bytes | Path, canvas: int, channels: int) -> tuple[np.ndarray, float]:
    """The whole image, turned upright as its EXIF orientation says, and stretched to a square.

    A JPEG much larger than the canvas is decoded at 1/2, 1/4 or 1/8 of its size, never below the canvas, to
    save work; what is left is resized with Pillow's antialiased bicubic filter.

    Args:
      encoded: the file's bytes, or its path.
      canvas: side of the square in pixels.
      channels: 1 (gray), 3 (RGB) or 4 (RGBA); see `to_channels`.

    Returns:
      uint8 `[canvas, canvas, channels]`, and width / height of the upright image.

    Raises:
      Exception: of many kinds, where Pillow cannot read the image.
    """
    with PIL.Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
        width, height = image.size
        image.draft(None, (canvas, canvas))
        image.load()  # before the orientation: a TIFF is turned upright by loading it
        orientation = _orientation(image)
        if orientation >= 5:
            width, height = height, width
        upright = PIL.ImageOps.exif_transpose(image) if orientation > 1 else image
        upright = to_channels(upright, channels)
        if upright.size != (canvas, canvas):
            upright = upright.resize((canvas, canvas), PIL.Image.Resampling.BICUBIC)
        return np.asarray(upright).reshape(canvas, canvas, channels), width / height


def to_channels(image: PIL.Image.Image, channels: int) -> PIL.Image.Image:
    """The image in gray, RGB or RGBA, 8 bits a channel.

    What is transparent shows white, unless there are 4 channels. Palettes, CMYK, YCbCr and the like become
    RGB; gray and RGB are turned into each other (ITU-R 601 luma). 16-bit gray is divided by 257, so that its
    full range is kept.

    Raises:
      ValueError: for floating-point pixels, whose range nobody states.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode.startswith("I"):  # 'I;16' and its kin; 'I' is how some 16-bit files are opened
        gray = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = PIL.Image.fromarray(((gray + 128) // 257).astype(np.uint8))
    if channels != 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])


def _orientation(image: PIL.Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
