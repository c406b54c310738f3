"""Images encoded here, because tfds would import TensorFlow to do it."""

import io

import numpy as np
import PIL.Image


def png_bytes(image: np.ndarray) -> bytes:
    """The PNG file of a gray image: uint8 `[height, width]`."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "png", compress_level=1)
    return buffer.getvalue()
