"""decode_to_canvas, compared with Pillow and NumPy."""

import io

import numpy as np
import PIL.Image
import pytest
import simplejpeg
from scipy.ndimage import map_coordinates

from vicreg_jax.data.images import decode_into, decode_to_canvas, stretch


def encoded(image: PIL.Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth color image of 24 x 36 pixels whose four corners differ."""
    y, x = np.mgrid[0:24, 0:36]
    return np.stack([x * 7, y * 10, (x + y) * 4], axis=-1).astype(np.uint8)


def test_square_image_of_the_canvas_size_is_untouched(picture):
    square = picture[:, :24]
    image, aspect_ratio = decode_to_canvas(encoded(PIL.Image.fromarray(square), "png"), 24, 3)
    np.testing.assert_array_equal(image, square)
    assert aspect_ratio == 1


def test_whole_image_is_stretched_and_its_aspect_ratio_returned(picture):
    image, aspect_ratio = decode_to_canvas(encoded(PIL.Image.fromarray(picture), "png"), 12, 3)
    assert image.shape == (12, 12, 3)
    assert image.dtype == np.uint8
    assert aspect_ratio == 1.5
    # On a linear picture, away from its edges, an antialiasing filter gives the value at the pixel's center.
    red = (np.arange(12) + 0.5) * 3 - 0.5
    np.testing.assert_allclose(image[6, 2:-2, 0], red[2:-2] * 7, atol=1.5)


def test_antialiased(picture):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    image, _ = decode_to_canvas(encoded(PIL.Image.fromarray(stripes), "png"), 16, 1)
    np.testing.assert_allclose(image[:, 2:-2], 127.5, atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["jpeg", "png", "tiff", "webp"])
def test_exif_orientation_is_honored(picture, orientation, file_format):
    # The stored pixels from which each orientation gives `picture` (EXIF 2.3, tag 274).
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.swapaxes(0, 1),
        6: picture.swapaxes(0, 1)[::-1],
        7: picture.swapaxes(0, 1)[::-1, ::-1],
        8: picture.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    options = {"jpeg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(file_format, {})
    data = encoded(PIL.Image.fromarray(np.ascontiguousarray(stored)), file_format, exif=exif, **options)
    image, aspect_ratio = decode_to_canvas(data, 30, 3)
    expected, _ = decode_to_canvas(encoded(PIL.Image.fromarray(picture), "png"), 30, 3)
    assert aspect_ratio == 1.5
    np.testing.assert_allclose(image.astype(int), expected.astype(int), atol=8)


def test_large_jpeg_is_reduced_while_decoded_and_looks_the_same(picture):
    large = PIL.Image.fromarray(picture).resize((1440, 960), PIL.Image.Resampling.BICUBIC)
    image, aspect_ratio = decode_to_canvas(encoded(large, "jpeg", quality=95), 100, 3)
    expected = np.asarray(large.resize((100, 100), PIL.Image.Resampling.BICUBIC))
    assert aspect_ratio == 1.5  # of the file, not of the reduced image
    np.testing.assert_allclose(image.astype(int), expected.astype(int), atol=6)


def test_transparent_pixels_become_white_except_with_four_channels(picture):
    alpha = np.zeros((24, 36), np.uint8)
    alpha[:, 18:] = 255
    data = encoded(PIL.Image.fromarray(np.dstack([picture, alpha])), "png")
    image, _ = decode_to_canvas(data, 24, 3)
    np.testing.assert_array_equal(image[:, :10], 255)
    assert image[:, 14:].mean() < 200
    with_alpha, _ = decode_to_canvas(data, 24, 4)
    assert with_alpha[0, 0, 3] == 0
    assert with_alpha[0, -1, 3] == 255


def test_palette_with_a_transparent_color():
    image = PIL.Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).convert("P")
    image.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
    data = encoded(image, "png", transparency=3)
    decoded, _ = decode_to_canvas(data, 4, 3)
    np.testing.assert_array_equal(decoded[0, 3], [255, 255, 255])
    np.testing.assert_array_equal(decoded[1, 0], [4, 0, 251])


def test_sixteen_bits_keep_their_full_range():
    values = np.array([[0, 257], [32896, 65535]], np.uint16)
    image, _ = decode_to_canvas(encoded(PIL.Image.fromarray(values), "png"), 2, 1)
    np.testing.assert_array_equal(image[..., 0], [[0, 1], [128, 255]])


def test_cmyk_becomes_rgb():
    cmyk = PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    image, _ = decode_to_canvas(encoded(cmyk, "tiff"), 8, 3)
    np.testing.assert_array_equal(image[0, 0], [255, 0, 0])


def test_gray_and_color_are_converted_into_each_other(picture):
    gray, _ = decode_to_canvas(encoded(PIL.Image.fromarray(picture[:, :24]), "png"), 24, 1)
    luma = picture[:, :24] @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    np.testing.assert_allclose(gray[..., 0], luma, atol=1)
    color, _ = decode_to_canvas(encoded(PIL.Image.fromarray(gray[..., 0]), "png"), 24, 3)
    np.testing.assert_array_equal(color, np.repeat(gray, 3, axis=2))


def test_floating_point_pixels_are_an_error():
    data = encoded(PIL.Image.fromarray(np.ones((4, 4), np.float32)), "tiff")
    with pytest.raises(ValueError, match="floating-point"):
        decode_to_canvas(data, 4, 1)


@pytest.mark.parametrize(("canvas", "channels"), [(24, 1), (24, 3), (17, 1)])
def test_pixels_are_treated_like_a_file(picture, canvas, channels):
    gray = picture[:, :24, 0]
    from_pixels, from_file = (
        decode_to_canvas(source, canvas, channels)[0] for source in (gray, encoded(PIL.Image.fromarray(gray), "png"))
    )
    np.testing.assert_array_equal(from_pixels, from_file)
    assert decode_to_canvas(gray[:12], canvas, channels)[1] == 2


@pytest.mark.parametrize("file_format", ["jpeg", "png", "webp"])
def test_truncated_file_raises(picture, file_format):
    data = encoded(PIL.Image.fromarray(picture).resize((200, 200)), file_format)
    with pytest.raises(Exception):  # noqa: B017  (Pillow's plugins raise errors of many kinds)
        decode_to_canvas(data[: len(data) // 2], 16, 3)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("L", 3), ("RGB", 1), ("RGB", 3)])
def test_jpeg_is_decoded_as_by_pillow(picture, mode, channels):
    data = encoded(PIL.Image.fromarray(picture[:, :24]).convert(mode), "jpeg", quality=95, subsampling=0)
    image, _ = decode_to_canvas(data, 24, channels)
    expected = PIL.Image.open(io.BytesIO(data)).convert({1: "L", 3: "RGB"}[channels])
    np.testing.assert_allclose(image.squeeze().astype(int), np.asarray(expected).astype(int), atol=2)


def test_damaged_jpeg_that_pillow_reads_is_read_by_pillow(picture):
    data = bytearray(encoded(PIL.Image.fromarray(picture[:, :24]), "jpeg", quality=95))
    scan = data.index(b"\xff\xda")
    data[scan:scan] = b"\0\0\0"  # bytes between two segments
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(bytes(data))
    image, _ = decode_to_canvas(bytes(data), 24, 3)
    np.testing.assert_array_equal(image, np.asarray(PIL.Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(12, 12), (12, 31), (40, 9), (9, 9)])
def test_decoded_in_place(picture, channels, size):
    source = encoded(PIL.Image.fromarray(picture).resize(size), "png")
    batch = np.zeros((3, 12, 12, channels), np.uint8)
    assert decode_into(batch[1], source) == size[0] / size[1]
    np.testing.assert_array_equal(batch[1], decode_to_canvas(source, 12, channels)[0])
    assert not batch[0].any()
    assert not batch[2].any()


def test_stretched_with_bilinear_interpolation():
    """Between half of the canvas and twice of it, as SciPy interpolates; a longer side is averaged first."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 37), np.uint8)
    canvas = np.zeros((25, 25, 1), np.uint8)
    stretch(pixels, canvas)
    y, x = ((np.arange(25) + 0.5) * length / 25 - 0.5 for length in pixels.shape)
    expected = map_coordinates(pixels.astype(float), np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(canvas[..., 0], expected, atol=1)
    small = np.zeros((5, 5, 1), np.uint8)
    stretch(pixels[:5, :30], small)
    np.testing.assert_allclose(small[..., 0], pixels[:5, :30].reshape(5, 5, 6).mean(axis=2), atol=1)
