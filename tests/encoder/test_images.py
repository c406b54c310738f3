"""One idea of an image: its features are the same from pixels with their aspect ratio, from its dataset and folder."""

import os
import re

import numpy as np
import PIL.Image
import pytest

from tests.small_encoder import LABELS, NAMES
from vicreg_jax.data import load_dataset


def cosine(a, b):
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_all_three_ways_give_the_same_features(encoder, folder):
    names, features, labels, class_names = encoder.embed_folder(folder)
    assert names == NAMES
    assert class_names == ("cat", "dog")
    np.testing.assert_array_equal(labels, LABELS)

    dataset = load_dataset("image_folder", "test+train", manual_dir=str(folder), image_size=16)
    by_name = {dataset.name_of(index).removeprefix(f"{folder}/"): index for index in range(len(dataset))}
    assert sorted(by_name) == NAMES
    order = [by_name[name] for name in NAMES]
    of_dataset = encoder(dataset)
    assert of_dataset.dtype == np.float32
    np.testing.assert_allclose(of_dataset[order], features, rtol=1e-5, atol=1e-6)

    examples = [dataset[index] for index in order]
    canvases, ratios = (np.stack([example[name] for example in examples]) for name in ("image", "aspect_ratio"))
    np.testing.assert_allclose(encoder(canvases, ratios), features, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encoder(canvases[:1], float(ratios[0])), features[:1], rtol=1e-5, atol=1e-6)

    # From the file itself, resampled once instead of twice; the canvas alone is another picture.
    with PIL.Image.open(folder / NAMES[0]) as image:
        of_file = encoder(np.asarray(image)[None])
    of_canvas = encoder(canvases[:1])
    assert cosine(of_file, features[:1]) > 0.999
    assert cosine(of_canvas, features[:1]) < 0.99


def test_gray_images_are_read_with_the_channels_of_the_encoder(encoder, tmp_path):
    PIL.Image.new("L", (24, 24), 90).save(tmp_path / "a.png")
    PIL.Image.new("RGB", (24, 24), (90, 90, 90)).save(tmp_path / "b.png")
    features = encoder.embed_folder(tmp_path).features
    np.testing.assert_allclose(features[0], features[1], rtol=1e-5)
    (tmp_path / "gray").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "gray" / "a.png")
    dataset = load_dataset("image_folder", "test", manual_dir=str(tmp_path / "gray"), image_size=24)
    assert dataset.channels == 1
    np.testing.assert_allclose(encoder(dataset), features[:1], rtol=1e-5)


def test_unreadable_image_is_left_out_of_a_folder(encoder, folder, caplog):
    damaged = folder / NAMES[2]
    damaged.write_bytes(damaged.read_bytes()[:60])
    names, features, labels, _ = encoder.embed_folder(folder)
    assert names == [name for name in NAMES if name != NAMES[2]]
    assert len(features) == len(labels) == 5
    assert "cannot be read" in caplog.text


def test_files_that_came_since_are_found(encoder, folder):
    before = encoder.embed_folder(folder).names
    PIL.Image.new("RGB", (20, 30)).save(folder / "train" / "cat" / "7.png")
    assert encoder.embed_folder(folder).names == [*before[:4], "train/cat/7.png", *before[4:]]


def test_name_that_is_not_utf8_is_shown(encoder, tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for name in (b"a", b"b"):
        os.mkdir(folder + b"/" + name + b"\xff")
        PIL.Image.new("RGB", (24, 30)).save(os.fsdecode(folder + b"/" + name + b"\xff/1.png"))
    found = encoder.embed_folder(os.fsdecode(folder))
    assert found.names == [r"a\xff/1.png", r"b\xff/1.png"]
    assert found.class_names == (r"a\xff", r"b\xff")


def test_folder_that_is_not_there(encoder, tmp_path):
    with pytest.raises(ValueError, match=rf"^path must be a folder; got '{re.escape(str(tmp_path))}/nothing'"):
        encoder.embed_folder(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        (0.0, r"aspect_ratio must be width / height, numbers above 0; got 0\.0"),
        ([1.0, np.nan], r"aspect_ratio must be width / height, numbers above 0; got \[1\.0, nan\]"),
        ("wide", r"aspect_ratio must be width / height, numbers above 0; got 'wide'"),
        ([1.0, 2.0, 3.0], r"aspect_ratio must be a number, or one per image, shape \(2,\); got shape \(3,\)"),
    ],
)
def test_aspect_ratio_that_is_none(encoder, ratio, says):
    with pytest.raises(ValueError, match=f"^{says}$"):
        encoder(np.zeros((2, 16, 16, 3), np.uint8), ratio)


def test_dataset_knows_its_aspect_ratios(encoder, folder):
    with pytest.raises(TypeError, match=r"^aspect_ratio must be None for a dataset.*; got 1\.5$"):
        encoder(encoder.open_dataset("image_folder", manual_dir=str(folder)), 1.5)
