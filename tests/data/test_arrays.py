"""Images in NumPy arrays: names and shapes that are taken, splits, labels, and what is refused."""

import hashlib
import pickle

import numpy as np
import pytest

from vicreg_jax.data import UnreadableImagesError, identify, load_dataset, open_collection

_RNG = np.random.default_rng(0)


def images(count, *shape):
    return _RNG.integers(0, 256, (count, *shape), np.uint8)


def opened(path):
    return open_collection("arrays", manual_dir=str(path))


def save_npz(place, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(place / "set.npz", **arrays)
    return place / "set.npz"


def save_npy(place, **arrays):
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
    return place


def order(count):
    """The order of the digests of the rows."""
    return sorted(range(count), key=lambda row: hashlib.sha256(b"%d" % row).digest())


@pytest.fixture(params=["npz", "compressed", "npy"])
def save(request, tmp_path):
    """Saves arrays by name; returns their place."""

    def save_arrays(**arrays):
        if request.param == "npy":
            return save_npy(tmp_path, **arrays)
        return save_npz(tmp_path, request.param == "compressed", **arrays)

    return save_arrays


@pytest.mark.parametrize("shape", [(6, 6), (6, 4), (6, 6, 1), (6, 6, 3), (5, 6, 4)])
def test_images_of_every_shape(save, shape):
    x_train, x_test = images(7, *shape), images(3, *shape)
    collection = opened(save(x_train=x_train, y_train=np.arange(7)[:, None] % 4, x_test=x_test, y_test=np.arange(3)))
    assert list(collection.splits) == ["train", "test"]
    assert (collection.channels, collection.side) == ((*shape, 1)[2], 6 if shape[:2] == (6, 6) else None)
    assert collection.class_names == ("0", "1", "2", "3")
    assert collection.split_rule == "train is x_train, test is x_test"
    for split, pixels in (("train", x_train), ("test", x_test)):
        found = pickle.loads(pickle.dumps(collection.splits[split]))
        assert [label for _, label in found] == [row % 4 for row in order(len(pixels))]
        for (image, _), row in zip(found, order(len(pixels)), strict=True):
            np.testing.assert_array_equal(image, pixels[row].squeeze())


def test_pixels_on_the_canvas(save):
    pixels = images(4, 6, 6, 3)
    dataset = load_dataset("arrays", "train", manual_dir=str(save(x_train=pixels, x_test=pixels)), image_size=4)
    assert (dataset.canvas, dataset.channels, dataset.num_classes) == (6, 3, None)
    for index, row in enumerate(order(4)):
        np.testing.assert_array_equal(dataset[index]["image"], pixels[row])


def test_names_of_medmnist(save):
    parts = {f"{split}_images": images(3, 4, 4) for split in ("train", "val", "test")}
    labels = {
        f"{split}_labels": np.array([[0], [1], [number]], np.uint8)
        for number, split in enumerate(("train", "val", "test"))
    }
    collection = opened(save(**parts, **labels))
    assert list(collection.splits) == ["train", "test", "val"]
    assert collection.class_names == ("0", "1", "2")
    for split in collection.splits:
        for (image, label), row in zip(collection.splits[split], order(3), strict=True):
            np.testing.assert_array_equal(image, parts[f"{split}_images"][row])
            assert label == labels[f"{split}_labels"][row]


@pytest.mark.parametrize("names", [("images", "labels"), ("x_train", "y_train"), ("train_images", "train_labels")])
def test_without_a_test_split_digests_decide(save, names):
    pixels = images(40, 2, 2)
    collection = opened(save(**{names[0]: pixels, names[1]: np.arange(40)}))
    test = [row for row in order(40) if int.from_bytes(hashlib.sha256(b"%d" % row).digest()[:8], "big") < 2**64 // 10]
    assert 0 < len(test) < 10
    assert [label for _, label in collection.splits["test"]] == test
    assert [label for _, label in collection.splits["train"]] == order(40)[len(test) :]
    assert "about one image in ten" in collection.split_rule


def test_several_numbers_per_image_are_no_label(save):
    collection = opened(save(x_train=images(3, 4, 4), y_train=np.eye(3, 5, dtype=int), x_test=images(3, 4, 4)))
    assert collection.class_names is None
    [note] = collection.notes
    assert note.startswith("unlabeled: y_train in ")
    assert note.endswith(" has 5 numbers per image")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"data": images(3, 4, 4)}, "manual_dir must hold arrays named x_train and y_train, .*, which holds data"),
        ({"x_test": images(3, 4, 4)}, "manual_dir must hold arrays named x_train and y_train, .*, which holds x_test"),
        ({"x_train": images(3, 4, 4) / 255}, r"manual_dir must hold images as uint8 .*: float64 \[3, 4, 4\]"),
        ({"x_train": images(3, 3, 8, 8)}, r"manual_dir must hold images as uint8 .*: uint8 \[3, 3, 8, 8\]"),
        ({"x_train": images(3, 16)}, r"manual_dir must hold images as uint8 .*: uint8 \[3, 16\]"),
        ({"x_train": images(0, 4, 4)}, "manual_dir must hold "),
        (
            {"x_train": images(3, 4, 4), "x_test": images(3, 4, 4, 3)},
            r"manual_dir must hold images of one shape; got .* with \[4, 4, 3\] in x_test, but \[4, 4\] in x_train",
        ),
        (
            {"x_train": images(3, 4, 4), "train_images": images(3, 4, 4)},
            "manual_dir must hold one array of images for each split; got .* with .*x_train",
        ),
        (
            {"x_train": images(3, 4, 4), "y_train": np.arange(4)},
            r"manual_dir must hold one label per image; got shape \[4\] of y_train in .*, but 3 images",
        ),
        (
            {"x_train": images(3, 4, 4), "y_train": np.ones(3)},
            "manual_dir must hold class numbers as labels; got float64 of y_train in ",
        ),
        (
            {"x_train": images(3, 4, 4), "y_train": np.array([0, -5, 2])},
            r"manual_dir must hold labels from 0 to \d+, or -1 \(unlabeled\); got -5",
        ),
        (
            {"x_train": images(3, 4, 4), "y_train": np.array([0, 2**40, 2])},
            r"manual_dir must hold labels from 0 to \d+, or -1 \(unlabeled\); got 1099511627776",
        ),
        (
            {"x_train": np.array([[1], "object"], dtype=object)},
            "manual_dir must hold intact arrays, without pickles; got .*x_train.*",
        ),
    ],
)
def test_arrays_that_are_refused(save, arrays, says):
    place = save(**arrays)
    with pytest.raises(ValueError, match=f"^{says}") as error:
        opened(place)
    assert "\n" not in str(error.value)


def test_fortran_order(tmp_path):
    pixels = np.asfortranarray(images(3, 4, 4))
    collection = opened(save_npz(tmp_path, images=pixels))
    for split in collection.splits.values():
        for image, _ in split:
            assert image.tobytes() in [part.tobytes() for part in pixels]
    with pytest.raises(ValueError, match=r"^manual_dir must hold arrays in C order; got '.*images\.npy'"):
        opened(save_npy(tmp_path, images=pixels))


@pytest.mark.parametrize("size", [0, 50, 180])
def test_truncated_files(tmp_path, size):
    save_npy(tmp_path, images=images(9, 4, 4))
    for file in (save_npz(tmp_path, images=images(9, 4, 4)), tmp_path / "images.npy"):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"^manual_dir must hold intact arrays, .*; got '.*' \(.+\)$") as error:
            opened(file if file.suffix == ".npz" else tmp_path)
        assert str(file) in str(error.value)


def test_a_damaged_archive(tmp_path):
    file = save_npz(tmp_path, images=images(9, 4, 4))
    content = bytearray(file.read_bytes())
    content[250] ^= 0xFF  # a pixel
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"^manual_dir must hold intact arrays, .*; got 'images in .*' \(Bad CRC-32"):
        opened(file)


def test_a_file_that_changes_under_a_run_ends_it(tmp_path):
    save_npy(tmp_path, images=images(9, 4, 4))
    dataset = load_dataset("arrays", "train", manual_dir=str(tmp_path), image_size=4)
    dataset = pickle.loads(pickle.dumps(dataset))  # as a worker process gets it
    save_npy(tmp_path, images=images(8, 4, 4))
    with pytest.raises(UnreadableImagesError, match=r"^manual_dir must .* got '.*images\.npy', which has changed"):
        dataset[0]


def test_identity_is_the_content(tmp_path):
    def record(split="all"):
        return identify(load_dataset("arrays", split, manual_dir=str(tmp_path / "set.npz"), image_size=4)).record()

    pixels = images(9, 4, 4)
    save_npz(tmp_path, images=pixels)
    before = record()
    save_npz(tmp_path, True, images=pixels)
    assert record() == before
    pixels[3, 1, 1] ^= 1
    save_npz(tmp_path, images=pixels)
    assert record() != before


@pytest.mark.parametrize("path", [None, "nowhere", "gs://bucket/set.npz"])
def test_no_such_place(path):
    with pytest.raises(ValueError, match=r"^manual_dir must be an \.npz file, or a folder of \.npy files") as error:
        open_collection("arrays", manual_dir=path)
    assert repr(path) in str(error.value) or path is None
