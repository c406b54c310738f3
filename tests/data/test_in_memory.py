"""Datasets in memory: the bundled digits, and the order of their images."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tensorflow_datasets.core import hashing

from vicreg_jax.data import load_dataset, open_collection
from vicreg_jax.data.in_memory import InMemoryImages, tfds_order


def arrays(dataset):
    examples = [dataset[index] for index in range(len(dataset))]
    return np.stack([example["image"] for example in examples]), np.stack([example["label"] for example in examples])


def digest(dataset) -> str:
    images, labels = arrays(dataset)
    return hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("split", ["train", "test"])
def test_order_is_the_hash_order_of_tfds(split):
    keys = np.random.default_rng(0).permutation(500).tolist()
    hasher = hashing.Hasher(split)
    assert tfds_order(split, keys) == sorted(range(500), key=lambda position: hasher.hash_key(keys[position]))


def test_images_and_labels_stay_together():
    images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1)
    source = InMemoryImages("train", images, np.arange(20), keys=range(20))
    assert len(source) == 20
    assert [int(image[0, 0]) for image, _ in source] == [label for _, label in source] == tfds_order("train", range(20))
    assert {label for _, label in InMemoryImages("train", images, None, keys=range(20))} == {-1}


@pytest.mark.parametrize(("split", "expected"), [("train", "a52db1234d62f3b3"), ("test", "4b97fb4bbd28d8d2")])
def test_digits_never_change(split, expected):
    """The digests were taken when tfds prepared the digits; committed results depend on the order of the images."""
    assert digest(load_dataset("digits", split, image_size=8)) == expected


def test_digits_are_those_of_scikit_learn():
    digits = load_digits()
    train, test = train_test_split(np.arange(1797), test_size=0.2, random_state=1, stratify=digits.target)
    for split, indices in (("train", train), ("test", test)):
        dataset = load_dataset("digits", split, image_size=8)
        assert (len(dataset), dataset.canvas, dataset.channels) == (len(indices), 8, 1)
        assert dataset.class_names == tuple("0123456789")
        images, labels = arrays(dataset)
        pixels = np.rint(digits.images[indices] * 255 / 16).astype(np.uint8)
        expected = sorted((int(label), x.tobytes()) for label, x in zip(digits.target[indices], pixels, strict=True))
        assert sorted((int(label), x.tobytes()) for label, x in zip(labels, images, strict=True)) == expected


def test_held_out_part_of_the_training_split():
    whole, fit, validation = (
        load_dataset("digits", split, image_size=8) for split in ("train", "train[:90%]", "train[90%:]")
    )
    assert (len(fit), len(validation)) == (1293, 144)
    np.testing.assert_array_equal(fit[1292]["image"], whole[1292]["image"])
    np.testing.assert_array_equal(validation[0]["image"], whole[1293]["image"])


def test_unknown_split():
    with pytest.raises(ValueError, match=r"^split must be one of train, test, or a part .*; got 'validation'$"):
        load_dataset("digits", "validation", image_size=8)


def test_digits_with_a_folder_that_holds_no_idx_files(tmp_path):
    with pytest.raises(ValueError, match=r"^manual_dir must hold train-images-idx3-ubyte.* 'digits' .*; got '.*'$"):
        open_collection("digits", manual_dir=str(tmp_path))
