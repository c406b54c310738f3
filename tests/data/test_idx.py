"""IDX files: MNIST's names, plain and compressed, and what is wrong with those that cannot be used."""

import gzip
import struct

import numpy as np
import pytest

from vicreg_jax.data.idx import find_idx_files, read_idx
from vicreg_jax.runtime.errors import InputError


def images_file(images: np.ndarray) -> bytes:
    return struct.pack(">IIII", 0x803, *images.shape) + images.astype(np.uint8).tobytes()


def labels_file(labels: np.ndarray) -> bytes:
    return struct.pack(">II", 0x801, len(labels)) + labels.astype(np.uint8).tobytes()


def write_set(folder, train=12, test=5, shape=(4, 6), seed=0, form="{}-images-idx3-ubyte", labeled=True):
    """A random set; the test split's labels are all below those of the training split."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for prefix, count, classes in (("train", train, 7), ("t10k", test, 3)):
        arrays[prefix] = rng.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % classes
        contents = {form.format(prefix): images_file(arrays[prefix][0])}
        if labeled:
            name = form.format(prefix).replace("images", "labels").replace("idx3", "idx1")
            contents[name] = labels_file(arrays[prefix][1])
        for name, content in contents.items():
            (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return arrays


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
    arrays = write_set(tmp_path, form=form)
    directory = find_idx_files(tmp_path)
    assert (directory.image_shape, directory.num_classes) == ((4, 6), 7)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = directory.read(split)
        np.testing.assert_array_equal(images, arrays[prefix][0])
        np.testing.assert_array_equal(labels, arrays[prefix][1])


def test_without_labels(tmp_path):
    write_set(tmp_path, labeled=False)
    directory = find_idx_files(tmp_path)
    assert directory.num_classes is None
    assert directory.read("train")[1] is None


def test_labels_of_one_split_alone_are_not_used(tmp_path):
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    directory = find_idx_files(tmp_path)
    assert directory.num_classes is None
    assert directory.read("train")[1] is None


def test_without_test_images(tmp_path):
    write_set(tmp_path)
    for file in tmp_path.glob("t10k*"):
        file.unlink()
    assert list(find_idx_files(tmp_path).splits) == ["train"]


def test_other_directories_hold_none(tmp_path):
    assert find_idx_files(tmp_path) is None
    assert find_idx_files(tmp_path / "nowhere") is None


def test_digest_tells_contents_apart_and_not_places(tmp_path):
    write_set(tmp_path / "one", seed=0)
    write_set(tmp_path / "same", seed=0)
    write_set(tmp_path / "other", seed=1)
    one, same, other = (find_idx_files(tmp_path / name).digest for name in ("one", "same", "other"))
    assert one == same != other


def test_wrong_magic_number(tmp_path):
    write_set(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(images_file(np.zeros((1, 2, 2))))
    with pytest.raises(InputError) as error:
        find_idx_files(tmp_path)
    assert str(error.value) == (
        f"config.data.manual_dir: {path} begins with 0x00000803, an IDX file of labels with 0x00000801"
    )


def test_something_else_under_the_name(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r"begins with 0x3c68746d, an IDX file of images with 0x00000803$"):
        find_idx_files(tmp_path)


@pytest.mark.parametrize("difference", [-1, 1])
def test_wrong_length(tmp_path, difference):
    path = tmp_path / "train-images-idx3-ubyte"
    whole = images_file(np.zeros((3, 4, 5)))
    path.write_bytes(whole[:difference] if difference < 0 else whole + b"\0")
    with pytest.raises(InputError) as error:
        read_idx(path, "images")
    assert str(error.value) == (
        f"config.data.manual_dir: {path} holds {60 + difference} bytes of data, its header says 60 (3, 4, 5)"
    )


def test_header_cut_short(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(images_file(np.zeros((3, 4, 5)))[:10])
    with pytest.raises(InputError, match=r"holds no images: its header says"):
        read_idx(path, "images")


def test_damaged_compression(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = gzip.compress(images_file(np.random.default_rng(0).integers(0, 256, (9, 9, 9))))
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match=rf"^config.data.manual_dir: {path} is damaged \(.*\)$"):
        read_idx(path, "images")
    path.write_bytes(b"not gzip at all")
    with pytest.raises(InputError, match=rf"^config.data.manual_dir: {path} is damaged \(.*\)$"):
        read_idx(path, "images")


def test_labels_that_are_too_few(tmp_path):
    write_set(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels_file(np.arange(7)))
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte has 7 labels, train-images-idx3-ubyte 12 images$"):
        find_idx_files(tmp_path).read("train")


def test_test_images_of_another_size(tmp_path):
    write_set(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(images_file(np.zeros((5, 3, 3))))
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte has images of \(3, 3\) pixels"):
        find_idx_files(tmp_path).read("test")


def test_no_images(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(images_file(np.zeros((0, 4, 4))))
    with pytest.raises(InputError, match=r"holds no images: its header says \(0, 4, 4\)"):
        find_idx_files(tmp_path)
