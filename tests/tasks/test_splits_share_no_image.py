"""A test split that shares images with the training split is refused, whatever the names and parts."""

import PIL.Image
import pytest

from vicreg_jax.config import base_config
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.splits import open_splits


def opened(train, test, *, allowed=False, **data):
    config = base_config()
    config.data.update(data | {"image_size": 8, "train_split": train, "test_split": test})
    config.evaluation.allow_overlap = allowed
    return open_splits(config, None)


@pytest.mark.parametrize(
    ("train", "test", "shared"),
    [
        ("train", "train", 1437),
        ("train[:80%]", "train[50%:]", 432),
        ("train[:10]+train[20:30]", "test+train[25:40]", 5),
        ("test+train", "test", 360),
    ],
)
def test_shared_images_are_refused(train, test, shared):
    with pytest.raises(InputError) as error:
        opened(train, test)
    assert str(error.value) == (
        f"config.data.test_split must share no image with data.train_split={train!r}; got {test!r}, which shares "
        f"{shared} (to evaluate on training images, set evaluation.allow_overlap=True)"
    )
    train_data, test_data = opened(train, test, allowed=True)
    assert test_data.shared_images(train_data) == shared


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("train[:90%]", "train[90%:]"), ("train", "test[:9]")])
def test_other_splits_share_none(train, test):
    train_data, test_data = opened(train, test)
    assert test_data.shared_images(train_data) == 0


def test_two_names_of_one_folder_are_one_split(tmp_path):
    for index, name in enumerate(("train", "train", "val", "val", "val")):
        (tmp_path / name).mkdir(exist_ok=True)
        PIL.Image.new("L", (8, 8)).save(tmp_path / name / f"{index}.png")
    folder = {"name": "image_folder", "manual_dir": str(tmp_path)}
    opened("train", "val", **folder)
    with pytest.raises(InputError, match=r"must share no image with data\.train_split='train\+val'.* which shares 3 "):
        opened("train+val", "test", **folder)
