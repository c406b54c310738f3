"""IDX files: MNIST's names, plain and compressed, and the errors of files that cannot be used."""

import gzip
import hashlib
import struct
import tracemalloc

import numpy as np
import pytest

from tests.data.files import FASHION_MNIST, images_file, labels_file, write_idx
from vicreg_jax.data import load_dataset, open_collection
from vicreg_jax.data.idx import open_idx_files, read_idx
from vicreg_jax.data.in_memory import tfds_order


@pytest.mark.parametrize(
    "form",
    [
        "{}-images-idx3-ubyte",
        "{}-images-idx3-ubyte.gz",
        "{}-images.idx3-ubyte",
        "{}-images.idx3-ubyte.gz",
    ],
)
def test_names_plain_and_compressed(tmp_path, form):
    arrays = write_idx(tmp_path, form=form)
    collection = open_idx_files(tmp_path)
    assert (collection.channels, collection.side, collection.class_names) == (1, None, tuple("0123456"))
    assert list(collection.splits) == ["train", "test"]
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[prefix]
        order = tfds_order(split, range(len(images)))
        np.testing.assert_array_equal([image for image, _ in collection.splits[split]], images[order])
        np.testing.assert_array_equal([label for _, label in collection.splits[split]], labels[order])


def test_directory_under_any_name(tmp_path):
    images, labels = write_idx(tmp_path, shape=(4, 4))["train"]
    dataset = load_dataset("my own/set", "train", manual_dir=str(tmp_path), image_size=4)
    assert (dataset.name, dataset.canvas, dataset.channels, dataset.num_classes) == ("my own/set", 4, 1, 7)
    for index, position in enumerate(tfds_order("train", range(12))):
        np.testing.assert_array_equal(dataset[index]["image"][..., 0], images[position])
        assert dataset[index]["label"] == labels[position]


def test_changed_files_are_read_again(tmp_path):
    for seed in range(2):
        images, _ = write_idx(tmp_path, seed=seed)["t10k"]
        found = {image.tobytes() for image, _ in open_collection("mnist", manual_dir=str(tmp_path)).splits["test"]}
        assert found == {image.tobytes() for image in images}


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_idx(tmp_path / "files")
    assert len(load_dataset("mnist", "train", manual_dir="~/files", image_size=4)) == 12


def test_without_labels(tmp_path):
    write_idx(tmp_path, labeled=False)
    collection = open_idx_files(tmp_path)
    assert collection.class_names is None
    assert {label for _, label in collection.splits["train"]} == {-1}


def test_labels_of_one_split_only_are_not_used(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    collection = open_idx_files(tmp_path)
    assert collection.class_names is None
    assert {label for _, label in collection.splits["train"]} == {-1}


def test_without_test_images(tmp_path):
    write_idx(tmp_path)
    for file in tmp_path.glob("t10k*"):
        file.unlink()
    assert list(open_idx_files(tmp_path).splits) == ["train"]


def test_other_directories_hold_none(tmp_path):
    assert open_idx_files(tmp_path) is None
    assert open_idx_files(tmp_path / "nowhere") is None


def test_wrong_magic_number(tmp_path):
    write_idx(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(images_file(np.zeros((1, 2, 2))))
    with pytest.raises(ValueError) as error:
        open_idx_files(tmp_path)
    assert str(error.value) == (
        f"manual_dir must hold IDX files of labels that begin with 0x00000801; got {path}, which begins with 0x00000803"
    )


def test_something_else_under_the_name(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=r"^manual_dir must .* begin with 0x00000803; got .* begins with 0x3c68746d$"):
        open_idx_files(tmp_path)


@pytest.mark.parametrize(("difference", "found"), [(-1, "59 bytes"), (1, "more bytes")])
def test_wrong_length(tmp_path, difference, found):
    path = tmp_path / "train-images-idx3-ubyte"
    whole = images_file(np.zeros((3, 4, 5)))
    path.write_bytes(whole[:difference] if difference < 0 else whole + b"\0")
    with pytest.raises(ValueError) as error:
        read_idx(path, "images")
    assert str(error.value) == (
        f"manual_dir must hold intact IDX files; got {path} with {found} of data, "
        f"but a header that says 60 (shape (3, 4, 5))"
    )


@pytest.mark.parametrize("shape", [(50, 8, 8), (2**32 - 1,) * 3])
def test_no_more_is_read_than_the_header_says(tmp_path, shape):
    """A bomb: 64 MiB of zeros behind a header of 50 x 8 x 8; and a header of 2**96 bytes before them."""
    header = struct.pack(">IIII", 0x803, *shape)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(header + bytes(2**26 if shape[0] == 50 else 1000), compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=r"^manual_dir must hold intact IDX files; got .* bytes of data, but a header"
        ):
            read_idx(path, "images")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_truncated_header(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(images_file(np.zeros((3, 4, 5)))[:10])
    with pytest.raises(ValueError, match=r"^manual_dir must hold IDX files with images; got .* shape \(3, 0, 0\)$"):
        read_idx(path, "images")


def test_damaged_compression(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = gzip.compress(images_file(np.random.default_rng(0).integers(0, 256, (9, 9, 9))))
    for content in (whole[:-20], b"not gzip at all"):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"^manual_dir must hold intact IDX files; got {path}, which is damaged \(.*\)$"
        ):
            open_collection("mnist", manual_dir=str(tmp_path))


def test_too_few_labels(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels_file(np.arange(7)))
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte with 7 labels, but 12 images in train-images-idx3-ubyte$"):
        open_idx_files(tmp_path)


def test_test_images_of_another_size(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(images_file(np.zeros((5, 3, 3))))
    with pytest.raises(
        ValueError, match=r"^manual_dir must hold images of one size; got .*t10k-images-idx3-ubyte with shape \(3, 3\)"
    ):
        open_idx_files(tmp_path)


def test_no_images(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(images_file(np.zeros((0, 4, 4))))
    with pytest.raises(ValueError, match=r"^manual_dir must hold IDX files with images; got .* with shape \(0, 4, 4\)"):
        open_idx_files(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
@pytest.mark.parametrize(("split", "expected"), [("train", "19faa12a185eeb69"), ("test", "320e58dbd12dca38")])
def test_fashion_mnist_never_changes(split, expected):
    """The digests were taken when tfds prepared the IDX files; committed results depend on the order of the images."""
    dataset = load_dataset("fashion_mnist", split, manual_dir=str(FASHION_MNIST), image_size=28)
    assert (dataset.canvas, dataset.channels, dataset.num_classes) == (28, 1, 10)
    examples = [dataset[index] for index in range(len(dataset))]
    digest = hashlib.sha256(b"".join(example["image"].tobytes() for example in examples))
    digest.update(bytes(int(example["label"]) for example in examples))
    assert digest.hexdigest()[:16] == expected
