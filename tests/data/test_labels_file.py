"""Labels of a folder of images in a file: forms, names of files, and what is counted or refused."""

import json

import numpy as np
import pytest

from tests.data.files import png
from vicreg_jax.data import changed_facts, identify, load_dataset, open_collection

FILES = ("0.png", "1.png", "sub/2.png", "sub/deep/3.png")


@pytest.fixture
def folder(tmp_path):
    for number, file in enumerate(FILES):
        path = tmp_path / "photos" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.full((4, 4, 3), number, np.uint8)))
    return tmp_path / "photos"


@pytest.fixture
def labeled(folder):
    """Writes a file of labels beside the folder; opens the folder with it."""

    def open_with(name, content):
        file = folder.parent / name
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return open_collection("image_folder", manual_dir=str(folder), labels_file=str(file))

    return open_with


def names(collection, folder):
    """The class of each file; None if it is unlabeled."""
    return {
        path.relative_to(folder).as_posix(): collection.class_names[label] if label >= 0 else None
        for split in ("train", "test")
        for path, label in collection.splits[split]
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "0.png,cat\n1.png,dog\nsub/2.png,cat\nsub/deep/3.png,dog\n"),
        ("labels.csv", "file,label\n0.png,cat\n1.png,dog\nsub/2.png,cat\nsub/deep/3.png,dog\n"),
        ("labels.csv", "\ufeffimage_id,dx\n0,cat\n1,dog\n2,cat\n3,dog\n"),  # names without suffix, an unknown header
        ("labels.csv", "0,cat\n1,dog\n2,cat\n3,dog\n"),
        ("labels.csv", 'n,class,"file_name"\n1,cat,./0.png\n2,dog,1.png\n3,cat,sub/2\n\n4,dog,sub/deep/3\n'),
        ("labels.tsv", "0.png\tcat\r\n1.png\tdog\r\n2.png\tcat\r\n3.png\tdog\r\n"),
        ("labels.json", {"0.png": "cat", "1.png": "dog", "2.png": "cat", "sub/deep/3.png": "dog"}),
        (
            "labels.json",
            [
                {"file_name": file, "label": label, "more": 1}
                for file, label in zip(FILES, ["cat", "dog", "cat", "dog"], strict=True)
            ],
        ),
    ],
)
def test_forms(labeled, folder, name, content):
    collection = labeled(name, content)
    assert collection.class_names == ("cat", "dog")
    assert names(collection, folder) == dict(zip(FILES, ["cat", "dog", "cat", "dog"], strict=True))
    assert collection.notes == ()


def test_integers_are_in_the_order_of_numbers(labeled, folder):
    collection = labeled("labels.json", {"0.png": 10, "1.png": 9, "2.png": 9, "3.png": 0})
    assert collection.class_names == ("0", "9", "10")
    assert names(collection, folder) == dict(zip(FILES, ["10", "9", "9", "0"], strict=True))


def test_subfolders_are_no_classes_then(labeled):
    assert labeled("labels.csv", "0.png,one\n1.png,one\n2.png,one\n3.png,one\n").class_names == ("one",)


def test_what_does_not_match_is_counted_and_named(labeled, folder):
    collection = labeled("labels.csv", "0.png,cat\nmissing.png,dog\ngone.png,cat\n1.png,dog\n")
    assert names(collection, folder) == dict(zip(FILES, ["cat", "dog", None, None], strict=True))
    assert collection.notes == (
        "2 labels of files that are not there: missing.png, gone.png",
        "unlabeled: 2 images without a label in labels.csv: sub/2.png, sub/deep/3.png",
    )


def test_a_name_that_two_files_have_is_neither(folder, labeled):
    (folder / "sub" / "0.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
    found = names(labeled("labels.csv", "1.png,dog\n0,cat\nsub/0.png,owl\n"), folder)
    assert found == {"0.png": "cat", "sub/0.png": "owl", "1.png": "dog", "sub/2.png": None, "sub/deep/3.png": None}


def test_labels_of_the_folders_of_splits(tmp_path, folder):
    folder.rename(tmp_path / "train")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "9.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "labels.csv").write_text("train/0.png,cat\n1.png,dog\nval/9.png,dog\n")
    collection = open_collection("image_folder", manual_dir=str(tmp_path), labels_file=str(tmp_path / "labels.csv"))
    assert [label for _, label in collection.splits["val"]] == [1]
    assert names(collection, tmp_path)["train/0.png"] == "cat"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("labels.txt", "", r"labels_file must end in \.csv, \.tsv, \.json; got '.*labels\.txt'"),
        ("labels.csv", "", "labels_file must hold two columns, .*: it is empty"),
        ("labels.csv", "0.png\n1.png\n", "labels_file must hold two columns, .*: its first row is 0.png"),
        ("labels.csv", "0.png,cat,1\n", "labels_file must hold two columns, .*: its first row is 0.png, cat, 1"),
        ("labels.csv", "0.png,cat\n1.png\n", "labels_file must hold two columns, .*: row 2 has 1 cell instead of 2"),
        (
            "labels.csv",
            "a.png,cat\nb.png,cat\n",
            r"labels_file must name image files below the folder; .* with 2 other names \(a\.png, b\.png\)",
        ),
        (
            "labels.csv",
            "0.png,cat\n0,dog\n",
            "labels_file must give one label to a file; .*'cat' and 'dog' for '0.png'",
        ),
        ("labels.json", "{", "labels_file must hold two columns, .*: Expecting property name"),
        ("labels.json", "3", "labels_file must hold two columns, .*: it is neither an object nor a list"),
        ("labels.json", [["0.png", 1]], "labels_file must hold two columns, .*: entry 0 names no file and label"),
        ("labels.json", {"0.png": 0.5}, "labels_file must hold two columns, .*: the label 0.5 is neither text nor"),
        (
            "labels.json",
            {"0.png": None},
            "labels_file must hold two columns, .*: the label None is neither text nor",
        ),
    ],
)
def test_files_that_are_refused(labeled, name, content, says):
    with pytest.raises(ValueError, match=f"^{says}") as error:
        labeled(name, content)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text(folder, tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"0.png,caf\xe9\n")
    with pytest.raises(ValueError, match=r"^labels_file must hold two columns, .*: it is not UTF-8$"):
        open_collection("image_folder", manual_dir=str(folder), labels_file=str(tmp_path / "labels.csv"))
    with pytest.raises(ValueError, match=r"^labels_file must be a readable file; got 'none\.csv' \(No such file"):
        open_collection("image_folder", manual_dir=str(folder), labels_file="none.csv")


def test_only_a_folder_takes_one():
    with pytest.raises(ValueError, match=r"^labels_file must be None unless name is 'image_folder'; got 'labels\."):
        open_collection("digits", labels_file="labels.csv")


def test_identity_includes_the_labels(folder, tmp_path):
    def record(content):
        (tmp_path / "labels.csv").write_text(content)
        return identify(
            load_dataset(
                "image_folder", "all", manual_dir=str(folder), labels_file=str(tmp_path / "labels.csv"), image_size=4
            )
        ).record()

    before = record("0.png,cat\n1.png,dog\n")
    assert changed_facts(record("file,label\n1.png,dog\n0.png,cat\n"), before) == []
    assert changed_facts(record("0.png,cat\n1.png,cat\n2.png,dog\n"), before) == ["other labels"]
