"""The entries of `evaluation.transfer`: names, places and splits."""

import numpy as np
import pytest

from tests.small_encoder import save_photos, small_config
from vicreg_jax.data.collection import NO_LABEL, Collection
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks import splits
from vicreg_jax.tasks.transfer import open_transfer, transfer_lines

IMAGE = np.zeros((8, 8), np.uint8)


@pytest.fixture
def opened(monkeypatch):
    """`opened(entry, **splits)`: what the entry opens in a dataset with these splits, and the arguments for it."""

    def open_entry(entry, **found):
        asked = {}

        def collection(name, *, data_dir, manual_dir, **_):
            asked.update(name=name, manual_dir=manual_dir)
            return Collection(found, channels=3, side=8, class_names=("cat", "dog"))

        monkeypatch.setattr(splits, "open_collection", collection)
        config = small_config()
        config.evaluation.transfer = (entry,)
        return open_transfer(config, 1, None)[entry], asked

    return open_entry


def images(count):
    return [(IMAGE, index % 2) for index in range(count)]


UNLABELED = [(IMAGE, NO_LABEL)] * 3


@pytest.mark.parametrize(
    ("entry", "name", "path"),
    [
        ("mnist", "mnist", None),
        ("cifar10:3.0.2", "cifar10:3.0.2", None),
        ("imagenette/160px-v2:1.*.*:DATA", "imagenette/160px-v2:1.*.*", "DATA"),
        ("image_folder:gs://bucket/photos", "image_folder", "gs://bucket/photos"),
        ("fashion_mnist:/usr/share/fashion:2", "fashion_mnist", "/usr/share/fashion:2"),
    ],
)
def test_names_and_places(opened, entry, name, path):
    _, asked = opened(entry, train=images(4), test=images(2))
    assert asked == {"name": name, "manual_dir": path}


@pytest.mark.parametrize(
    ("found", "taken"),
    [
        ({"test": images(2), "train": images(4), "extra": UNLABELED}, ("train", "test")),
        ({"train": images(4), "validation": images(2)}, ("train", "validation")),
        ({"train": images(4), "test": UNLABELED, "validation": images(2)}, ("train", "validation")),
        ({"unlabelled": UNLABELED, "train": images(4), "val": images(2), "test": images(3)}, ("train", "test")),
    ],
)
def test_splits(opened, found, taken):
    (train, test), _ = opened("pets", **found)
    assert (train.split, test.split) == taken
    assert train.channels == test.channels == 1  # those of the network
    assert train.num_classes == test.num_classes == 2


@pytest.mark.parametrize("name", ["train", "test", "all"])
def test_only_split_is_divided_by_a_fixed_rule(opened, name):
    numbered = [(np.full((8, 8), index, np.uint8), index % 2) for index in range(23)]
    (train, test), _ = opened("pets", **{name: numbered})
    members = [[int(split[index]["image"][0, 0, 0]) for index in range(len(split))] for split in (train, test)]
    assert members[1] == [4, 9, 14, 19]
    assert sorted(members[0] + members[1]) == list(range(23))
    train.unreadable.add(0)
    assert test.unreadable == set()


def test_too_few_images(opened):
    with pytest.raises(InputError, match=r"^config\.evaluation\.transfer must be a dataset of at least 5 images; got"):
        opened("pets", train=images(4))


def test_other_images_keep_their_own_range(tmp_path):
    save_photos(tmp_path)
    config = small_config()
    config.data.value_range = (7300, 8200)
    config.evaluation.transfer = (f"image_folder:{tmp_path}",)
    ((train, test),) = open_transfer(config, 3, (7300, 8200)).values()
    assert (len(train), len(test)) == (4, 2)
    assert train.value_range is test.value_range is None


def test_lines():
    row = {"knn_accuracy": 0.5, "linear_accuracy": 0.75}
    results = {"pets": row | {"baselines": {"raw_pixels": row}}, "photos": {"knn_accuracy": None, "baselines": None}}
    assert transfer_lines(results) == [
        "on pets: kNN 0.5000, linear 0.7500; raw pixels kNN 0.5000, linear 0.7500",
        "on photos: no accuracies, they need labels in both splits",
    ]
