"""Dataset: images by index, and what happens to those that cannot be read."""

import dataclasses
import logging

import numpy as np
import pytest

from vicreg_jax.data.dataset import Dataset
from vicreg_jax.errors import InputError


def test_an_element(dataset, pictures):
    element = dataset[3]
    np.testing.assert_array_equal(element["image"], pictures[3])
    assert (element["image"].dtype, element["aspect_ratio"].dtype, element["label"].dtype) == (
        np.uint8,
        np.float32,
        np.int32,
    )
    assert (element["aspect_ratio"], element["label"]) == (1, 3)
    assert len(dataset) == 50
    assert dataset.num_classes == 10


def test_indices_beyond_the_end_raise_and_negative_ones_count_from_it(dataset):
    with pytest.raises(IndexError):
        dataset[50]
    np.testing.assert_array_equal(dataset[-1]["image"], dataset[49]["image"])


def test_without_class_names_there_are_no_classes(dataset):
    assert dataclasses.replace(dataset, class_names=None).num_classes is None


def test_an_unreadable_image_is_replaced_by_the_next_and_named_once(dataset, pictures, tmp_path, caplog):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing more")
    source = list(dataset.source)
    source[4] = (broken, 4)
    source[49] = (b"no image", 9)
    dataset = dataclasses.replace(dataset, source=source, unreadable=set())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(dataset[4]["image"], pictures[5])
            assert dataset[4]["label"] == 5
            np.testing.assert_array_equal(dataset[49]["image"], pictures[0])  # the next after the last
    assert dataset.unreadable == {str(broken), "image 49 of pictures train"}
    assert len(caplog.records) == 2
    assert str(broken) in caplog.text


def test_a_disk_that_is_gone_ends_the_run(tmp_path):
    source = [(tmp_path / f"{index}.jpg", -1) for index in range(500)]
    dataset = Dataset("image_folder", "train", source, canvas=4, channels=3)
    with pytest.raises(InputError, match=r"^config.data.name: 100 images of 'image_folder' in a row cannot be read"):
        dataset[0]
