"""Images of more than 8 bits: which values become 0 and 255, in files, in tfds datasets and in arrays."""

import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from vicreg_jax.config import SHARED
from vicreg_jax.data import load_dataset, open_collection, open_split, to_uint8
from vicreg_jax.data.collection import MAX_PIXELS
from vicreg_jax.data.images import decode_to_canvas
from vicreg_jax.data.value_range import resolve_value_range


def png16(pixels):
    """A PNG of 16 bits per channel, which Pillow does not write in color."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def thermal(seed, shape=(40, 40)):
    """Values 7,300 to 8,200, as of a thermal camera, with a dead and a glaring pixel."""
    pixels = np.random.default_rng(seed).integers(7300, 8201, shape, np.uint16)
    pixels.flat[:2] = 0, 65535
    return pixels


@pytest.fixture
def thermal_folder(tmp_path):
    for index in range(12):
        PIL.Image.fromarray(thermal(index)).save(tmp_path / f"{index}.tif")
    return tmp_path


def opened(folder, **options):
    return load_dataset("image_folder", "train+test", manual_dir=str(folder), image_size=40, **options)


def levels(dataset):
    return [len(np.unique(dataset[index]["image"])) for index in range(len(dataset))]


def test_a_thermal_folder_keeps_its_contrast(thermal_folder):
    dataset = opened(thermal_folder)
    assert dataset.channels == 1
    low, high = dataset.value_range
    assert 7300 <= low <= 7304
    assert 8196 <= high <= 8200
    assert min(levels(dataset)) > 200
    assert dataset.warnings == ()


def test_the_range_is_one_for_all_splits(thermal_folder):
    splits = [
        load_dataset("image_folder", name, manual_dir=str(thermal_folder), image_size=40) for name in ("train", "test")
    ]
    assert splits[0].value_range == splits[1].value_range


def test_dtype_is_the_full_range_of_16_bits_and_warns(thermal_folder):
    dataset = opened(thermal_folder, value_range="dtype")
    assert dataset.value_range is None
    assert max(levels(dataset)) <= 7  # 28 to 32, and the two wrong pixels
    assert dataset.warnings == (
        "little contrast: 12 of 12 sampled images use under 32 of 256 levels in value_range=(0, 65535)",
    )


def test_two_numbers(thermal_folder):
    dataset = opened(thermal_folder, value_range=(7300, 8200))
    pixels = np.sort([PIL.Image.open(path) for path in thermal_folder.iterdir()], axis=None).astype(float)
    expected = np.clip(np.rint((pixels - 7300) * 255 / 900), 0, 255)
    found = np.sort([dataset[index]["image"] for index in range(12)], axis=None)
    np.testing.assert_allclose(found, expected, atol=0)


@pytest.mark.parametrize("suffix", ["tif", "pfm"])
def test_floating_point_images(tmp_path, suffix):
    for index in range(3):
        pixels = np.linspace(-1, 1 + index, 1600, dtype=np.float32).reshape(40, 40)
        pixels[0, 0] = np.nan if suffix == "tif" else -1
        PIL.Image.fromarray(pixels).save(tmp_path / f"{index}.{suffix}")
    dataset = opened(tmp_path)
    low, high = dataset.value_range
    assert -1 <= low < -0.99
    assert 2.9 < high <= 3
    assert min(levels(dataset)) > 100
    assert {int(dataset[index]["image"][0, 0, 0]) for index in range(3)} == {0}
    assert not dataset.unreadable
    with pytest.raises(
        ValueError, match=r"^value_range must be 'auto' or two numbers for floating-point images; got 'dtype'$"
    ):
        opened(tmp_path, value_range="dtype")


def test_images_above_the_default_limit_are_sampled_too(thermal_folder, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 700)  # Pillow refuses the double
    collection = open_collection("image_folder", manual_dir=str(thermal_folder), max_pixels=MAX_PIXELS + 1)
    low, high = open_split(collection, "image_folder", "train", image_size=40).value_range
    assert 7300 <= low < high <= 8200


def test_16_bit_colors_keep_their_low_bytes(tmp_path):
    pixels = np.random.default_rng(0).integers(7300, 8201, (16, 16, 4), np.uint16)
    for channels in (3, 4):
        image, _ = decode_to_canvas(png16(pixels[..., :channels]), 16, channels, (7300, 8200))
        np.testing.assert_array_equal(image[..., :3], to_uint8(pixels[..., :3], (7300, 8200)))
    np.testing.assert_array_equal(image[..., 3], to_uint8(pixels[..., 3]))
    (tmp_path / "1.png").write_bytes(png16(pixels[..., :3]))
    (tmp_path / "2.png").write_bytes(png16(pixels[..., :3]))
    low, high = opened(tmp_path).value_range
    assert 7300 <= low < 7310 < 8190 < high <= 8200


def test_16_bit_color_of_a_tfds_dataset(prepared16):
    dataset = load_dataset("set_of16_bits", "train", data_dir=prepared16, image_size=16)
    low, high = dataset.value_range
    assert 7300 <= low < high <= 8200
    assert min(levels(dataset)) > 100


@pytest.fixture
def prepared16(tmp_path):
    from tests.data.builders import SetOf16Bits
    from vicreg_jax.data.prepare import prepare_here
    from vicreg_jax.data.tfds_builder import quiet

    with quiet():
        prepare_here(SetOf16Bits(data_dir=str(tmp_path)))
    return str(tmp_path)


def test_images_of_8_bits_are_taken_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(100, 110, (40, 40), np.uint8)
    for index in range(2):
        PIL.Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    dataset = opened(tmp_path)
    assert (dataset.value_range, dataset.warnings) == (None, ())
    np.testing.assert_array_equal(dataset[0]["image"][..., 0], pixels)
    with pytest.raises(
        ValueError, match=r"^value_range must be 'auto' or 'dtype' for images of 8 bits, .*; got \(0, 9\)$"
    ):
        opened(tmp_path, value_range=(0, 9))


@pytest.mark.parametrize("value_range", ["full", "12", (3, 3), (1, 2, 3), (0, np.inf), (None, 1), 5])
def test_no_value_range(value_range):
    with pytest.raises(ValueError, match=r"^value_range must be .*two rising numbers; got "):
        resolve_value_range([], value_range)
    with pytest.raises(ValueError, match=r"^value_range must be .*two rising numbers; got "):
        to_uint8(np.zeros(3, np.uint16), value_range)


def test_a_constant_set_has_a_range():
    assert resolve_value_range([np.full(9, 5, np.uint16)], "auto").bounds == (5, 6)


def test_the_callers_way_to_uint8():
    values = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(to_uint8(values), (values.astype(int) + 128) // 257)
    np.testing.assert_array_equal(to_uint8(np.array([np.nan, -np.inf, 0.5, np.inf]), (0, 1)), [0, 0, 128, 255])
    same = np.arange(5, dtype=np.uint8)
    assert to_uint8(same, (0, 9)) is same
    with pytest.raises(TypeError, match=r"^images must be uint8 or uint16 without a value_range; got dtype float32$"):
        to_uint8(np.zeros(3, np.float32))


def test_the_default_limit_of_the_config_is_that_of_the_library():
    assert SHARED["data.max_pixels"].default == MAX_PIXELS
