"""Parquet files with image bytes: columns, splits, class names, extraction, and what is refused."""

import json
import pickle
import sys
from collections import namedtuple

import numpy as np
import pytest

from tests.data.files import png
from vicreg_jax.data import UnreadableImagesError, identify, load_dataset, open_collection, parquet
from vicreg_jax.data.held_out import row_digests

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGES = [png(np.full((4, 4, 3), value, np.uint8)) for value in range(12)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}}


def write(path, images, features=FEATURES, **columns):
    """A file as Hugging Face writes it, in row groups of two rows; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": image, "path": None} for image in images]
    metadata = {} if features is None else {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": pa.array(rows, STRUCT), **columns}).replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=2)
    return path


def labels(numbers):
    return pa.array([number % 3 for number in numbers], pa.int64())


@pytest.fixture
def folder(tmp_path):
    """Two training files and one of validation."""
    place = tmp_path / "set"
    write(place / "data" / "train-00000-of-00002.parquet", IMAGES[:5], label=labels(range(5)))
    write(place / "data" / "train-00001-of-00002.parquet", IMAGES[5:8], label=labels(range(5, 8)))
    write(place / "data" / "validation-00000-of-00001.parquet", IMAGES[8:], label=labels(range(8, 12)))
    return place


def opened(folder, **options):
    return open_collection("parquet", manual_dir=str(folder), **options)


def order(count):
    return np.argsort(row_digests(count), kind="stable").tolist()


@pytest.fixture(params=["in memory", "extracted"])
def options(request, tmp_path, monkeypatch):
    """Where the images are, after opening."""
    if request.param == "extracted":
        monkeypatch.setattr(parquet, "IN_MEMORY_BYTES", 0)
    return {"cache_dir": tmp_path / "cache"}


def test_images_and_labels(folder, options):
    calls = []
    collection = opened(folder, progress=lambda *counts: calls.append(counts), **options)
    assert list(collection.splits) == ["train", "test", "validation"]
    assert list(collection.splits["train"]) == [(IMAGES[row], row % 3) for row in order(8)]
    assert list(collection.splits["test"]) == [(IMAGES[8 + row], (8 + row) % 3) for row in order(4)]
    assert list(pickle.loads(pickle.dumps(collection.splits["train"]))) == list(collection.splits["train"])
    assert (collection.channels, collection.side, collection.class_names) == (3, 4, ("cat", "dog", "owl"))
    assert collection.split_rule == (
        "train is 2 files (data/train-00000-of-00002.parquet, data/train-00001-of-00002.parquet), "
        "test is data/validation-00000-of-00001.parquet"
    )
    assert collection.notes == ()
    assert calls[-1] == (12, 12)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes_without_metadata(tmp_path, options, kind):
    table = pa.table({"img": pa.array(IMAGES, kind), "label": pa.array(range(12), pa.int8()), "id": range(12)})
    pq.write_table(table, tmp_path / "a.parquet")
    collection = opened(tmp_path / "a.parquet", **options)
    found = {image: label for split in ("train", "test") for image, label in collection.splits[split]}
    assert found == {image: number for number, image in enumerate(IMAGES)}
    assert collection.class_names == tuple(map(str, range(12)))
    assert "about one image in ten" in collection.split_rule


def test_the_only_class_label_is_the_label(tmp_path):
    features = {"species": {"names": ["a", "b"], "_type": "ClassLabel"}}
    write(tmp_path / "train.parquet", IMAGES[:2], features, species=[1, 0], width=[4, 4])
    write(tmp_path / "test.parquet", IMAGES[2:3], features, species=[1], width=[4])
    collection = opened(tmp_path)
    assert collection.class_names == ("a", "b")
    assert dict(collection.splits["train"]) == {IMAGES[0]: 1, IMAGES[1]: 0}


def test_without_labels(tmp_path):
    write(tmp_path / "train.parquet", IMAGES, None, caption=["a"] * 12)
    collection = opened(tmp_path)
    assert collection.class_names is None
    assert collection.notes == ("unlabeled: no column of class numbers in train.parquet",)


def test_missing_images_and_labels(tmp_path, options):
    table = pa.table(
        {
            "image": pa.array([{"bytes": IMAGES[0]}, {"bytes": None, "path": "x"}, None, {"bytes": b"no"}], STRUCT),
            "label": pa.array([2, None, 1, -1], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "train.parquet")
    write(tmp_path / "test.parquet", IMAGES[1:2], label=labels([0]))
    dataset = load_dataset("parquet", "train", manual_dir=str(tmp_path), image_size=4, **options)
    assert set(dataset.notes) == {
        "2 of 4 sampled images unreadable, empty",
        "1 of 4 sampled images unreadable, of no format that Pillow knows",
        "unlabeled: 2 of 5 images have no label",
    }
    assert {int(dataset[index]["label"]) for index in range(4)} == {2}
    assert len(dataset.unreadable) == 3


def test_images_are_extracted_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "IN_MEMORY_BYTES", 0)
    cache = tmp_path / "cache"
    extracted = []
    real = parquet._write_images
    monkeypatch.setattr(parquet, "_write_images", lambda *args: extracted.append(args) or real(*args))

    def images():
        collection = opened(folder, cache_dir=cache)
        return list(collection.splits["train"]), collection.edition

    before = images()
    assert len(extracted) == 2
    assert sorted(path.suffix for path in cache.iterdir()) == [".images", ".images", ".npz", ".npz"]
    assert images() == before
    assert len(extracted) == 2
    for damage in (lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-1])):
        for file in cache.glob("*.images"):
            damage(file)
        assert images() == before
    assert len(extracted) == 6
    write(folder / "data" / "train-00001-of-00002.parquet", IMAGES[5:7], label=labels(range(5, 7)))
    after = images()
    assert len(extracted) == 7
    assert len(after[0]) == 7
    assert after[1] != before[1]
    assert len(list(cache.iterdir())) == 4


def test_a_second_process_may_extract_the_same_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "IN_MEMORY_BYTES", 0)
    first = opened(folder, cache_dir=tmp_path / "cache").splits["train"]
    expected = list(first)
    for file in (tmp_path / "cache").glob("*.npz"):
        file.unlink()
    opened(folder, cache_dir=tmp_path / "cache")
    assert list(pickle.loads(pickle.dumps(first))) == expected


def test_a_cache_that_is_emptied_under_a_run_ends_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "IN_MEMORY_BYTES", 0)
    dataset = load_dataset("parquet", "train", manual_dir=str(folder), image_size=4, cache_dir=tmp_path / "cache")
    dataset = pickle.loads(pickle.dumps(dataset))
    for file in (tmp_path / "cache").iterdir():
        file.unlink()
    with pytest.raises(UnreadableImagesError, match=r"^cache_dir must hold .* got '.*\.images', which has changed"):
        dataset[0]


def test_nothing_half_written_is_left(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(parquet, "row_digests", lambda count: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        opened(folder, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_large_files_need_a_cache_with_space(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "IN_MEMORY_BYTES", 0)
    with pytest.raises(ValueError, match=r"^cache_dir must be a directory for Parquet files of more than 0 MiB.*; "):
        opened(folder)
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Usage", "free")(100))
    with pytest.raises(ValueError, match=r"^manual_dir must hold Parquet files whose images, .* \(0\.0 GiB are free"):
        opened(folder, cache_dir=tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^manual_dir must hold Parquet files whose images, .* \((Not|File) .*; XDG_"):
        opened(folder, cache_dir=tmp_path / "file")


def truncate(file):
    file.write_bytes(file.read_bytes()[:-10])


def damage_a_page(file):
    content = bytearray(file.read_bytes())
    content[4:60] = b"\xff" * 56
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, damage_a_page, lambda file: file.write_bytes(b"")])
def test_damaged_files_are_named(folder, options, damage):
    file = folder / "data" / "train-00001-of-00002.parquet"
    damage(file)
    with pytest.raises(ValueError, match=r"^manual_dir must hold intact Parquet files; got '.*' \(.+\)$") as error:
        opened(folder, **options)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_columns_that_are_refused(folder):
    file = folder / "data" / "train-00001-of-00002.parquet"
    pq.write_table(pa.table({"text": ["a"]}), file)
    with pytest.raises(ValueError, match=r"^manual_dir must hold Parquet files with one column of .* none among text$"):
        opened(folder)
    pq.write_table(pa.table({"left": IMAGES[:2], "right": IMAGES[:2]}), file)
    with pytest.raises(ValueError, match=r"^manual_dir must hold .* one column of .* several \(left, right\)$"):
        opened(folder)
    write(file, IMAGES[:2])
    with pytest.raises(ValueError, match=r"^manual_dir must hold .* the same columns; got '.*1-of.*' with .* in No"):
        opened(folder)


def test_a_split_without_images(folder):
    write(folder / "data" / "validation-00000-of-00001.parquet", [], label=labels([]))
    with pytest.raises(ValueError, match=r"^manual_dir must hold images of every split; got '.*' with none in val.*$"):
        opened(folder)


def test_identity_is_the_content(folder, options, tmp_path):
    def record(place):
        return identify(load_dataset("parquet", "train", manual_dir=str(place), image_size=4, **options)).record()

    before = record(folder)
    assert record(folder.rename(tmp_path / "moved")) == before
    write(tmp_path / "moved" / "data" / "train-00001-of-00002.parquet", IMAGES[5:8], label=labels(range(6, 9)))
    assert record(tmp_path / "moved") != before


def test_pyarrow_is_named_where_it_is_missing(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"^name requires the package pyarrow \(pip install pyarrow\); got 'parquet'$"):
        opened(folder)
