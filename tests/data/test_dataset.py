"""Dataset: images by index, and the replacement of unreadable ones."""

import dataclasses
import logging

import numpy as np
import pytest

from vicreg_jax.data.dataset import Dataset, UnreadableImagesError


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


@pytest.fixture
def damaged(dataset, tmp_path):
    """The pictures, but image 4 is a damaged file, and image 49, the last one, is not an image."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing more")
    source = list(dataset.source)
    source[4] = (broken, 4)
    source[49] = (b"no image", 9)
    return dataclasses.replace(dataset, source=source, unreadable=set())


def test_an_unreadable_image_is_replaced_by_the_next_and_named_once(damaged, pictures, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(damaged[4]["image"], pictures[5])
            assert damaged[4]["label"] == 5
            np.testing.assert_array_equal(damaged[49]["image"], pictures[0])  # the next after the last
            np.testing.assert_array_equal(damaged[-1]["image"], pictures[0])
    assert damaged.unreadable == {4, 49}
    assert [damaged.name_of(index) for index in (4, 49)] == [str(tmp_path / "broken.jpg"), "image 49 of pictures train"]
    assert len(caplog.records) == 2
    for index in (4, 49):
        assert f"{damaged.name_of(index)} cannot be read" in caplog.text


def test_reading_alone_notes_nothing(damaged, pictures, caplog):
    """A decoding process reads with its own copy of the dataset."""
    example, skipped = damaged.read(4)
    np.testing.assert_array_equal(example["image"], pictures[5])
    assert (skipped, damaged.read(5)[1], damaged.unreadable, caplog.records) == (1, 0, set(), [])
    damaged.note(48, 3)
    assert damaged.unreadable == {48, 49, 0}


@pytest.mark.parametrize(("fraction", "stops_at"), [(0.0, 1), (0.04, 3), (0.05, 3), (0.06, 4), (1.0, None)])
def test_too_large_a_fraction_of_unreadable_images_ends_the_run(dataset, fraction, stops_at):
    """Ten of 50 images are unreadable, and are met one after the other."""
    source = [(b"no image", 0) if index % 5 == 0 else example for index, example in enumerate(dataset.source)]
    dataset = dataclasses.replace(dataset, source=source, unreadable=set(), max_unreadable=fraction)
    for met in range(1, 11):
        if met == stops_at:
            said = rf"^max_unreadable must .*; got 0\.0\d*, but {met} of the 50 .* \(last: image {5 * met - 5} of "
            with pytest.raises(UnreadableImagesError, match=said):
                dataset[5 * met - 5]
            break
        dataset[5 * met - 5]
    assert len(dataset.unreadable) == (stops_at or 10)


def test_a_disk_that_is_gone_ends_the_run(tmp_path):
    source = [(tmp_path / f"{index}.jpg", -1) for index in range(500)]
    dataset = Dataset("image_folder", "train", source, canvas=4, channels=3)
    with pytest.raises(UnreadableImagesError, match=r"^name must .*; got 'image_folder', where 100 images in a row"):
        dataset[0]
