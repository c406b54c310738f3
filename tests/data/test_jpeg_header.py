"""The header of plain JPEG files; all others are left to Pillow, and decoded to the same pixels."""

import io

import numpy as np
import PIL.Image
import pytest

from tests.data.files import png
from vicreg_jax.data import images
from vicreg_jax.data.jpeg_header import plain_size

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
TURNED = PIL.Image.Exif()
TURNED[0x0112] = 6


def jpeg(mode="RGB", **options):
    buffer = io.BytesIO()
    PIL.Image.fromarray(PIXELS).convert(mode).save(buffer, "jpeg", **options)
    return buffer.getvalue()


def patched(data, marker, offset, value):
    """The file with another byte, that far behind a marker."""
    place = data.index(bytes([0xFF, marker])) + offset
    return data[:place] + bytes([value]) + data[place + 1 :]


PLAIN = {
    "color": jpeg(),
    "gray": jpeg("L"),
    "progressive": jpeg(progressive=True),
    "full chroma": jpeg(subsampling=0),
    "comment": jpeg(comment=b"\xff\xe1 is no marker here"),
    "color profile": jpeg(icc_profile=bytes(70_000)),
}
OTHERS = {
    "EXIF": jpeg(exif=TURNED),
    "XMP": jpeg(xmp=b"<x/>"),
    "CMYK": jpeg("CMYK"),
    "12 bits": patched(jpeg(), 0xC0, 4, 12),
    "height in another marker": patched(patched(jpeg(), 0xC0, 5, 0), 0xC0, 6, 0),
    "no frame": patched(jpeg(), 0xC0, 1, 0xEF),
    "wrong length": patched(jpeg(), 0xDB, 3, 200),
    "fill byte": jpeg()[:2] + b"\xff" + jpeg()[2:],
    "end of the image": jpeg()[:2] + b"\xff\xd9" + jpeg()[2:],
    "cut in the header": jpeg()[:300],
    "start alone": b"\xff\xd8",
    "empty": b"",
    "PNG": png(PIXELS),
}


@pytest.mark.parametrize("name", PLAIN)
def test_size_of_a_plain_file(name):
    assert plain_size(PLAIN[name]) == (30, 20)


@pytest.mark.parametrize("name", OTHERS)
def test_none_of_another(name):
    assert plain_size(OTHERS[name]) is None


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", PLAIN | OTHERS)
def test_the_same_pixels_as_with_the_header_read_by_pillow(name, channels, monkeypatch):
    data = (PLAIN | OTHERS)[name]

    def decoded():
        try:
            pixels, aspect_ratio = images.decode_to_canvas(data, 16, channels)
        except Exception as error:
            return type(error)
        return pixels.tobytes(), aspect_ratio

    found = decoded()
    monkeypatch.setattr(images, "plain_size", lambda data: None)
    assert found == decoded()


def test_plain_but_too_large():
    with pytest.raises(PIL.Image.DecompressionBombError):
        images.decode_to_canvas(PLAIN["color"], 16, 3, max_pixels=599)


def test_plain_but_damaged_is_refused():
    with pytest.raises(OSError, match="truncated"):
        images.decode_to_canvas(PLAIN["color"][:-200], 16, 3)
