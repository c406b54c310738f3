"""What the images of a dataset are: the same wherever they lie, another where one of them is."""

import shutil

import numpy as np
import pytest

from tests.data.files import png
from vicreg_jax.data import Dataset, changed_facts, identify, load_dataset


@pytest.fixture
def photos(tmp_path):
    for index in range(12):
        path = tmp_path / "photos" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.full((8, 8, 3), index, np.uint8)))
    return tmp_path / "photos"


def open_again(folder):
    return load_dataset("image_folder", "train", manual_dir=str(folder), image_size=8)


def record_of(folder, unreadable=()):
    return identify(open_again(folder)).record(unreadable)


def change_of(folder, before):
    return changed_facts(record_of(folder), before)


def file_of(folder):
    """A training image."""
    return open_again(folder).source[2][0]


def test_folder_that_is_moved_or_spelled_otherwise_is_the_same(photos, tmp_path):
    before = record_of(photos)
    assert change_of(f"{photos}/", before) == []
    assert change_of(f"{photos}/../photos", before) == []
    (tmp_path / "PHOTOS").symlink_to(photos)
    assert change_of(tmp_path / "PHOTOS", before) == []
    assert change_of(shutil.move(photos, tmp_path / "elsewhere"), before) == []


def test_what_changed_is_said(photos):
    before = record_of(photos)
    file = file_of(photos)
    content = file.read_bytes()
    file.write_bytes(content + b"more")
    assert change_of(photos, before) == ["other file sizes"]
    file.unlink()
    assert change_of(photos, before) == ["10 images instead of 11", "other file names", "other file sizes"]
    file.write_bytes(content)
    assert change_of(photos, before) == []
    (photos / "c").mkdir()
    file.rename(photos / "c" / file.name)
    assert "3 classes instead of 2" in change_of(photos, before)


def test_image_that_went_bad_meanwhile_is_no_change(photos):
    before = record_of(photos, unreadable=[2])
    file = file_of(photos)
    file.write_bytes(file.read_bytes()[:20])
    assert changed_facts(record_of(photos, unreadable=[2]), before) == []
    assert changed_facts(record_of(photos, unreadable=[]), before) == ["other file sizes"]


def test_a_link_to_nothing_has_no_size(photos):
    file = file_of(photos)
    file.unlink()
    file.symlink_to("nothing")
    assert change_of(photos, record_of(photos)) == []


def test_images_in_memory_are_their_pixels_and_labels():
    def record(pixels, label):
        source = [(np.full((4, 4), pixels, np.uint8), 0), (np.zeros((4, 4), np.uint8), label)]
        return identify(Dataset("digits", "train", source, canvas=4, channels=1)).record()

    assert changed_facts(record(1, 1), record(1, 1)) == []
    assert changed_facts(record(1, 1), record(2, 1)) == ["other pixels and labels"]
    assert changed_facts(record(1, 1), record(1, 0)) == ["other pixels and labels"]


def test_a_source_with_an_edition_is_not_read():
    class Unread(list):
        def __getitem__(self, index):
            raise AssertionError

    def record(edition):
        return identify(Dataset("c", "train", Unread(range(5)), canvas=4, channels=1, edition=edition)).record()

    assert record("c/1.0.0")["images"] == 5
    assert changed_facts(record("c/1.0.1"), record("c/1.0.0")) == ["other edition"]


def test_another_source_is_another(photos):
    digits = identify(load_dataset("digits", "train", image_size=8)).record()
    assert {"other file names", "other pixels and labels", "11 images instead of 1437"} <= set(
        changed_facts(record_of(photos), digits)
    )
