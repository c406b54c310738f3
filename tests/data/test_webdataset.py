"""WebDataset shards: samples, labels, splits, long names, and damaged archives."""

import hashlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.files import png, write_tar
from vicreg_jax.data import UnreadableImagesError, identify, load_dataset, open_collection
from vicreg_jax.data.records import open_records
from vicreg_jax.data.tar import scan_tar

IMAGES = [png(np.full((4, 4, 3), value, np.uint8)) for value in range(12)]


def samples(numbers, label=lambda number: number % 3):
    """Samples of an image and its label."""
    for number in numbers:
        yield f"{number:06}.png", IMAGES[number]
        yield f"{number:06}.cls", b"%d" % label(number)


def opened(folder, **options):
    return open_collection("webdataset", manual_dir=str(folder), **options)


def numbers(split):
    """Which of IMAGES these are."""
    return [IMAGES.index(image) for image, _ in split]


def digest(number):
    return hashlib.sha256(b"%06d" % number).digest()


@pytest.fixture
def folder(tmp_path):
    """Two training shards and one of validation."""
    write_tar(tmp_path / "tars" / "train-0000.tar", samples(range(4)))
    write_tar(tmp_path / "tars" / "train-0001.tar", samples(range(4, 8)))
    write_tar(tmp_path / "tars" / "val-0000.tar", samples(range(8, 12)))
    return tmp_path / "tars"


def test_images_and_labels_in_the_order_of_the_digests(folder):
    collection = opened(folder)
    assert list(collection.splits) == ["train", "test", "val"]
    assert numbers(collection.splits["train"]) == sorted(range(8), key=digest)
    assert numbers(collection.splits["val"]) == sorted(range(8, 12), key=digest)
    assert collection.splits["test"] is collection.splits["val"]
    for split in collection.splits.values():
        assert [label for _, label in split] == [number % 3 for number in numbers(split)]
        assert list(pickle.loads(pickle.dumps(split))) == list(split)
    assert (collection.channels, collection.side, collection.class_names) == (3, 4, ("0", "1", "2"))
    assert collection.split_rule == "train is 2 files (train-0000.tar, train-0001.tar), test is val-0000.tar"
    assert collection.notes == ()


@pytest.mark.parametrize(
    ("train", "test", "split"),
    [
        ("train/00.tar", "val/00.tar", "val"),
        ("Train/00.tar", "TEST/00.tar", "test"),
        ("imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar", "validation"),
        ("data/train_0.tar", "data/dev.0.tar", "dev"),
    ],
)
def test_words_that_name_splits(tmp_path, train, test, split):
    write_tar(tmp_path / train, samples([0]))
    write_tar(tmp_path / test, samples([1]))
    collection = opened(tmp_path)
    assert {name: numbers(images) for name, images in collection.splits.items()} == {
        "train": [0],
        "test": [1],
        split: [1],
    }


@pytest.mark.parametrize("names", [["0.tar", "1.tar"], ["train-0.tar", "train-1.tar"]])
def test_without_a_held_out_split_digests_decide(tmp_path, monkeypatch, names):
    monkeypatch.setattr("vicreg_jax.data.held_out.TENTH", 2**63)  # a half
    write_tar(tmp_path / names[0], samples(range(6)))
    write_tar(tmp_path / names[1], samples(range(6, 12)))
    collection = opened(tmp_path)
    expected = sorted(range(12), key=digest)
    test = [number for number in expected if digest(number)[0] < 128]
    assert 0 < len(test) < 12
    assert numbers(collection.splits["test"]) == test
    assert numbers(collection.splits["train"]) == expected[len(test) :]
    assert "about one image in ten" in collection.split_rule


def test_a_single_file(folder):
    collection = opened(folder / "val-0000.tar")
    assert [len(collection.splits[split]) for split in ("train", "test")] == [3, 1]


def test_how_the_samples_are_cut_does_not_matter(folder, tmp_path):
    write_tar(tmp_path / "one" / "train.tar", samples(reversed(range(8))))
    write_tar(tmp_path / "one" / "val.tar", samples(range(8, 12)))
    ours, theirs = opened(folder), opened(tmp_path / "one")
    assert list(ours.splits["train"]) == list(theirs.splits["train"])


def test_members_of_samples(tmp_path):
    members = [
        ("./a.b/one.seg.png", b"not the image"),  # the key of this sample is a.b/one
        ("./a.b/one.JPG", IMAGES[0]),
        ("./a.b/one.json", json.dumps({"label": 7, "text": "x" * 2000}).encode()),
        ("two.png", IMAGES[1]),
        ("two.png", IMAGES[2]),
        ("two.cls", b" 5\n"),
        ("two.json", b'{"label": 3}'),
        ("three.txt", b"no image"),
        ("four.jpeg", IMAGES[3]),
        ("four.json", b'{"class": 2}'),
        ("five.png", IMAGES[4]),
        ("five.cls", b"cat"),
        ("six.png", IMAGES[5]),
        ("six.json", b'["label"]'),
        (".hidden.png", IMAGES[6]),
        ("a.b/.DS_Store", b""),
    ]
    write_tar(tmp_path / "train.tar", members)
    write_tar(tmp_path / "test.tar", samples([8]))
    collection = opened(tmp_path)
    found = {IMAGES.index(image): label for image, label in collection.splits["train"]}
    assert found == {0: 7, 1: 5, 3: 2, 4: -1, 5: -1}
    assert collection.class_names == tuple("01234567")
    assert collection.notes == (
        "left out: 1 sample without an image",
        "unlabeled: 2 of 6 images have no class number in .cls or .json",
    )


@pytest.mark.parametrize("options", [{"format": tarfile.PAX_FORMAT}, {"format": tarfile.GNU_FORMAT}])
def test_long_names_and_other_members(tmp_path, options):
    names = ["short", "d" * 80 + "/" + "f" * 90, "p" * 300 + "/é" * 20, "last"]
    with tarfile.open(tmp_path / "a.tar", "w", pax_headers={"comment": "global"}, **options) as archive:
        for number, name in enumerate(names):
            folder = tarfile.TarInfo(f"folder{number}")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            info = tarfile.TarInfo(f"{name}.png")
            info.size, info.mtime = len(IMAGES[number]), 0.5
            archive.addfile(info, io.BytesIO(IMAGES[number]))
            link = tarfile.TarInfo(f"{name}.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "elsewhere"
            archive.addfile(link)
    found = open_records([tmp_path / "a.tar"], scan_tar, version="1", argument="manual_dir")
    assert list(found) == IMAGES[:4]
    assert found.table["digest"].tolist() == [
        int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in names
    ]


def test_class_names_in_a_file(folder):
    (folder / "classnames.txt").write_text("cat\ndog\nowl\n")
    assert opened(folder).class_names == ("cat", "dog", "owl")
    (folder / "classnames.txt").write_text("cat\n")
    with pytest.raises(
        ValueError, match=r"^manual_dir must hold a name for every class; got 1 names, but the label 2$"
    ):
        opened(folder)


def test_unlabeled_shards(tmp_path):
    write_tar(tmp_path / "a.tar", [(f"{number}.png", image) for number, image in enumerate(IMAGES)])
    collection = opened(tmp_path)
    assert collection.class_names is None
    assert {label for _, label in collection.splits["train"]} == {-1}


def test_members_that_are_no_images_are_unreadable(folder, tmp_path):
    write_tar(folder / "train-0002.tar", [("bad.png", b"no image"), ("worse.jpg", b"")])
    dataset = load_dataset("webdataset", "train", manual_dir=str(folder), image_size=4)
    assert set(dataset.notes) == {
        "1 of 10 sampled images unreadable, of no format that Pillow knows",
        "1 of 10 sampled images unreadable, empty",
        "unlabeled: 2 of 14 images have no class number in .cls or .json",
    }
    for index in range(10):
        assert dataset[index]["image"].shape == (4, 4, 3)
    assert len(dataset.unreadable) == 2


def test_nothing_readable(tmp_path):
    write_tar(tmp_path / "a.tar", [("bad.png", b"no image"), ("worse.jpg", b"no image")])
    with pytest.raises(ValueError, match=r"^manual_dir must hold readable images; got 1 that are none \(1 of 1 .*\)$"):
        opened(tmp_path)


@pytest.mark.parametrize(("pixels", "channels"), [([(4, 4)] * 2, 1), ([(4, 4), (4, 4, 3)], 3), ([(4, 4, 4)] * 2, 3)])
def test_gray_and_color(tmp_path, pixels, channels):
    write_tar(tmp_path / "train.tar", [(f"{i}.png", png(np.zeros(shape, np.uint8))) for i, shape in enumerate(pixels)])
    write_tar(tmp_path / "test.tar", samples([0]))
    dataset = load_dataset("webdataset", "train", manual_dir=str(tmp_path), image_size=4)
    assert dataset.channels == channels
    assert all(dataset[index]["image"].shape == (4, 4, channels) for index in range(2))


def cut_to(size):
    def cut(file):
        file.write_bytes(file.read_bytes()[:size])

    return cut


def overwrite(offset, content):
    def damage(file):
        whole = bytearray(file.read_bytes())
        whole[offset : offset + len(content)] = content
        file.write_bytes(whole)

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut_to(0), "truncated"),
        (cut_to(100), "truncated"),
        (cut_to(512), "truncated"),
        (cut_to(1024), "truncated"),  # at the end of a member
        (cut_to(1100), "truncated"),
        (overwrite(1024, b"x" * 512), "damaged at byte 1024"),
        (overwrite(1024 + 124, b"none"), "damaged at byte 1024"),
        (overwrite(124, b"77777777777"), "truncated"),
        (overwrite(1024 + 124, b"\x80" + b"\xff" * 11), "truncated"),  # of a label, in GNU tar's form
        (lambda file: file.write_bytes(b"\x1f\x8b" + bytes(2000)), "compressed by gzip"),
        (lambda file: file.write_bytes(b"x" * 2000), "no tar file"),
    ],
)
def test_damaged_shards_are_named(folder, damage, says):
    file = folder / "train-0001.tar"
    damage(file)
    with pytest.raises(ValueError) as error:
        opened(folder)
    assert str(error.value) == f"manual_dir must hold intact, uncompressed tar files; got {str(file)!r} ({says})"


def test_the_index_is_kept_until_a_shard_changes(folder, tmp_path, monkeypatch):
    scanned = []

    def scan(path):
        scanned.append(path.name)
        return scan_tar(path)

    monkeypatch.setattr("vicreg_jax.data.webdataset.scan_tar", scan)
    first, second = (opened(folder, cache_dir=tmp_path / "cache") for _ in range(2))
    assert len(scanned) == 3
    assert first.edition == second.edition
    assert list(first.splits["train"]) == list(second.splits["train"])
    write_tar(folder / "train-0001.tar", samples(range(5, 8)))
    third = opened(folder, cache_dir=tmp_path / "cache")
    assert sorted(scanned[3:]) == ["train-0000.tar", "train-0001.tar"]
    assert third.edition != first.edition
    assert len(third.splits["train"]) == 7


def test_a_shard_that_was_cut_since_its_index_is_named(folder, tmp_path):
    opened(folder, cache_dir=tmp_path / "cache")
    cut_to(1100)(folder / "train-0001.tar")
    with pytest.raises(ValueError, match=r"got '.*train-0001\.tar' \(truncated\)$"):
        opened(folder, cache_dir=tmp_path / "cache")


def test_an_index_of_other_shards_is_replaced(folder, tmp_path):
    write_tar(tmp_path / "others" / "train.tar", samples(range(3)))
    write_tar(tmp_path / "others" / "val.tar", samples(range(3, 5)))
    cache, other_cache = tmp_path / "cache", tmp_path / "other_cache"
    expected = opened(folder, cache_dir=cache)
    opened(tmp_path / "others", cache_dir=other_cache)
    other = min(other_cache.iterdir())
    for index in list(cache.iterdir()):
        index.write_bytes(other.read_bytes())
        assert list(opened(folder, cache_dir=cache).splits["train"]) == list(expected.splits["train"])
        assert index.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("change", [Path.unlink, cut_to(1024)])
def test_a_shard_that_changes_under_a_run_ends_it(folder, change):
    dataset = load_dataset("webdataset", "train", manual_dir=str(folder), image_size=4)
    dataset = pickle.loads(pickle.dumps(dataset))  # as a worker process gets it
    for file in folder.glob("train-*.tar"):
        change(file)
    with pytest.raises(UnreadableImagesError, match=r"^manual_dir must hold the files that were opened; got "):
        dataset[0]


def test_identity_does_not_depend_on_the_place(folder, tmp_path):
    before = identify(load_dataset("webdataset", "train", manual_dir=str(folder), image_size=4)).record()
    moved = folder.rename(tmp_path / "moved")
    assert identify(load_dataset("webdataset", "train", manual_dir=str(moved), image_size=4)).record() == before


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], r"manual_dir must hold \.tar files; got '.*'$"),
        (["notes.txt"], r"manual_dir must hold \.tar files; got '.*', which holds notes\.txt$"),
        (
            ["val-0.tar"],
            r"manual_dir must hold \.tar files of the split train; got '.*', which holds only those of val$",
        ),
        (["train-0.tar", "1.tar.gz"], r"manual_dir must hold uncompressed \.tar files; got '.*1\.tar\.gz'$"),
    ],
)
def test_folders_that_are_refused(tmp_path, names, says):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"^{says}"):
        opened(tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    place = tmp_path / os.fsdecode(b"caf\xe9")
    write_tar(place / os.fsdecode(b"train-\xe9.tar"), samples(range(4)), encoding="latin-1")
    write_tar(place / "test.tar", [("\xe9.png", IMAGES[4])], encoding="latin-1", format=tarfile.GNU_FORMAT)
    collection = opened(place)
    assert numbers(collection.splits["test"]) == [4]
    assert collection.split_rule == "train is train-\ufffd.tar, test is test.tar"


def test_shards_of_no_split_are_left_out(folder):
    write_tar(folder / "extra.tar", samples([0]))
    assert opened(folder).notes == ("left out: 1 file of no split: extra.tar",)


@pytest.mark.parametrize(
    ("manual_dir", "says"),
    [
        (None, r"manual_dir must be the folder of \.tar files when name is 'webdataset'; got None"),
        ("nowhere", r"manual_dir must be a folder of \.tar files; got 'nowhere' \(looked for /.*/nowhere\)"),
        ("gs://bucket/tars", r"manual_dir must be a local folder of \.tar files; got 'gs://bucket/tars'"),
    ],
)
def test_no_folder(manual_dir, says):
    with pytest.raises(ValueError, match=f"^{says}$"):
        open_collection("webdataset", manual_dir=manual_dir)
