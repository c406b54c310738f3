"""Prepared stores: the same images as their source, resumed, and refused when damaged."""

import json
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from tests.data.files import png
from vicreg_jax.data import UnreadableImagesError, load_dataset, open_collection, prepare, prepare_store
from vicreg_jax.data.prepare_store import StoreFormat, write_store


@pytest.fixture
def photos(tmp_path):
    """Twelve photos of two classes, one of them unreadable; and the arguments that open them."""
    folder = tmp_path / "photos"
    for number in range(12):
        file = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(np.random.default_rng(number).integers(0, 256, (20, 30 + number, 3), np.uint8)))
    (folder / "cat" / "4.png").write_bytes(b"no image")
    return {"name": "image_folder", "manual_dir": str(folder)}


def of_store(place, split="train"):
    return load_dataset("store", split, image_size=8, manual_dir=str(place))


@pytest.mark.parametrize("split", ["train", "test", "train[2:5]"])
def test_a_raw_store_holds_the_pixels_of_its_source(photos, tmp_path, split):
    written = write_store(open_collection(**photos), tmp_path / "store", StoreFormat(16, "raw"), threads=3)
    assert written == {"images": 12, "unreadable": 1, "bytes": 11 * 16 * 16 * 3}
    ours, source = (
        of_store(tmp_path / "store", split),
        load_dataset(split=split, image_size=8, decode_size=16, **photos),
    )
    assert len(ours) == len(source) > 0
    assert ours.class_names == source.class_names == ("cat", "dog")
    for index in range(len(source)):
        (example, skipped), (expected, as_skipped) = ours.read(index), source.read(index)
        assert skipped == as_skipped
        for key, value in expected.items():
            np.testing.assert_array_equal(example[key], value)


def test_a_jpeg_store_is_close_to_its_source(tmp_path):
    y, x = np.mgrid[0:30, 0:40]
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.stack([x * 6, y * 8, (x + y) * 3], axis=-1).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    photos = {"name": "image_folder", "manual_dir": str(tmp_path / "photos")}
    write_store(open_collection(**photos), tmp_path / "store", StoreFormat(24))
    ours, source = (
        of_store(tmp_path / "store")[0],
        load_dataset(split="train", image_size=8, decode_size=24, **photos)[0],
    )
    np.testing.assert_allclose(ours["image"].astype(int), source["image"].astype(int), atol=12)
    assert ours["aspect_ratio"] == source["aspect_ratio"] == np.float32(40 / 30)


def test_a_store_of_16_bit_images_says_which_values_became_0_and_255(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(12):
        values = np.random.default_rng(number).integers(7300, 8201, (16, 16), np.uint16)
        (tmp_path / "photos" / f"{number}.png").write_bytes(png(values))
    photos = {"name": "image_folder", "manual_dir": str(tmp_path / "photos")}
    write_store(open_collection(**photos), tmp_path / "store", StoreFormat(16, "raw"))
    ours, source = of_store(tmp_path / "store"), load_dataset(split="train", image_size=8, **photos)
    low, high = ours.value_range
    assert (low, high) == source.value_range
    assert 7300 <= low < 7310 < 8190 < high <= 8200
    np.testing.assert_array_equal(ours[0]["image"], source[0]["image"])
    again = load_dataset("store", "train", image_size=8, manual_dir=str(tmp_path / "store"), value_range=(low, high))
    assert again.value_range == (low, high)  # as a resumed run has it
    for other in ("dtype", (0, 1)):
        with pytest.raises(ValueError, match=r"^value_range must be 'auto' or \(73..\.0, 8...\.0\), with which the"):
            load_dataset("store", "train", image_size=8, manual_dir=str(tmp_path / "store"), value_range=other)


def test_an_interrupted_store_resumes_with_what_is_missing(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_store, "_SHARD_BYTES", 16 * 16 * 3 * 2)  # two images each
    collection, place = open_collection(**photos), tmp_path / "store"

    def stop(done, images):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(collection, place, StoreFormat(16, "raw"), threads=1, report=stop)
    with pytest.raises(ValueError, match=r"manual_dir must be the directory of a store"):
        of_store(place)
    kept = {file: file.stat().st_mtime_ns for file in place.glob("*.npy")}
    last = max(place.glob("*.npy"))
    last.write_bytes(b"half of an index")
    write_store(collection, place, StoreFormat(16, "raw"))
    assert [file.stat().st_mtime_ns != time for file, time in kept.items()] == [file == last for file in kept]
    write_store(collection, tmp_path / "whole", StoreFormat(16, "raw"))
    assert (place / "store.json").read_text() == (tmp_path / "whole" / "store.json").read_text()


def test_another_store_is_not_overwritten(photos, tmp_path):
    collection, place = open_collection(**photos), tmp_path / "store"
    write_store(collection, place, StoreFormat(16))
    with pytest.raises(ValueError, match=r"store must be a new directory, or one that was begun with the same"):
        write_store(collection, place, StoreFormat(16, "raw"))
    with pytest.raises(ValueError, match=r"store must be a new or empty directory; got"):
        write_store(collection, photos["manual_dir"], StoreFormat(16))


def test_a_truncated_or_missing_shard_is_refused(photos, tmp_path):
    place = tmp_path / "store"
    write_store(open_collection(**photos), place, StoreFormat(16, "raw"))
    shard = place / "train-00000.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"manual_dir must hold whole shards; got '.*train-00000.bin' of \d+ instead"):
        of_store(place)
    shard.unlink()
    with pytest.raises(ValueError, match=r"manual_dir must hold readable files; got '.*train-00000.bin'"):
        of_store(place)
    shard.write_bytes(content)
    (place / "train-00000.npy").unlink()
    with pytest.raises(ValueError, match=r"manual_dir must be a complete store; got '.*train-00000.npy'"):
        of_store(place)


def test_a_shard_that_changes_while_it_is_read_stops_the_run(photos, tmp_path):
    place = tmp_path / "store"
    write_store(open_collection(**photos), place, StoreFormat(16, "raw"))
    dataset = of_store(place)
    shard = place / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UnreadableImagesError, match="changed since"):
        dataset[len(dataset) - 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": 0}, "side must be at least 1; got 0"),
        ({"side": 8, "encoding": "png"}, "encoding must be one of jpeg, raw; got 'png'"),
    ],
)
def test_bad_format(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        StoreFormat(**arguments)


def test_no_jpeg_of_images_with_alpha(tmp_path):
    np.savez(tmp_path / "set.npz", images=np.zeros((12, 4, 4, 4), np.uint8))
    collection = open_collection("arrays", manual_dir=str(tmp_path / "set.npz"))
    with pytest.raises(ValueError, match="encoding must be 'raw' for images with an alpha channel; got 'jpeg'"):
        write_store(collection, tmp_path / "store", StoreFormat(4))
    write_store(collection, tmp_path / "store", StoreFormat(4, "raw"))
    assert of_store(tmp_path / "store")[0]["image"].shape == (4, 4, 4)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoreFormat, "encode", lambda *_: b"pixels")
    monkeypatch.setattr(prepare_store, "_check", full)
    monkeypatch.setattr(sys, "argv", ["prepare", "digits", f"--store={tmp_path / 'store'}", "--side=8"])
    assert prepare.main() == 2
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("store must be a directory that can be written whole; got ")
    assert "(No space left on device)" in line
    assert not (tmp_path / "store" / "store.json").exists()


@pytest.mark.slow
def test_the_command(photos, tmp_path):
    command = [sys.executable, "-m", "vicreg_jax.data.prepare", "image_folder", f"--manual_dir={photos['manual_dir']}"]
    done = subprocess.run([*command, f"--store={tmp_path / 'store'}", "--side=16"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "12 images, 1 of them unreadable" in done.stderr
    assert json.loads((tmp_path / "store" / "store.json").read_text())["side"] == 16
    refused = subprocess.run([*command, f"--store={tmp_path / 'store'}"], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (
        2,
        "side must be the side of the stored canvases in pixels; got None\n",
    )
