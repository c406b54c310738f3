"""A folder of images: layouts, formats, and files whose content does not match their name."""

import hashlib
import logging
import os

import numpy as np
import PIL.Image
import pytest

from vicreg_jax.data import inspection, load_dataset, open_collection


def save(path, size=(8, 8), mode="RGB", color=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new(mode, size, color).save(path)
    return path


def opened(folder):
    return open_collection("image_folder", manual_dir=str(folder))


def files(collection, split, root):
    return {str(path.relative_to(root)) for path, _ in collection.splits[split]}


def test_flat_folder_has_no_labels_and_is_split_by_digest(tmp_path):
    names = {save(tmp_path / f"{index}.png").name for index in range(60)}
    collection = opened(tmp_path)
    test = {name for name in names if hashlib.sha256(name.encode()).digest()[0] < 0x19}
    rest = {name for name in names if hashlib.sha256(name.encode()).digest()[0] > 0x19}
    assert test <= files(collection, "test", tmp_path)
    assert rest <= files(collection, "train", tmp_path)
    assert files(collection, "train", tmp_path) | files(collection, "test", tmp_path) == names
    assert not files(collection, "train", tmp_path) & files(collection, "test", tmp_path)
    assert collection.class_names is None
    assert {label for _, label in collection.splits["train"]} == {-1}


def test_adding_files_moves_none_between_the_splits(tmp_path):
    for index in range(40):
        save(tmp_path / f"{index}.png")
    before = opened(tmp_path)
    for index in range(40, 80):
        save(tmp_path / f"{index}.png")
    after = opened(tmp_path)
    for split in ("train", "test"):
        assert files(before, split, tmp_path) < files(after, split, tmp_path)


def test_order_depends_on_the_names_alone(tmp_path):
    for folder, order in (("one", range(30)), ("two", reversed(range(30)))):
        for index in order:
            save(tmp_path / folder / f"{index % 3}" / f"{index}.png")
    one, two = ([path.name for path, _ in opened(tmp_path / name).splits["train"]] for name in ("one", "two"))
    assert one == two
    assert one != sorted(one)  # otherwise a slice of the split would hold only some classes


def test_a_few_images_also_give_a_test_split(tmp_path):
    for index in range(3):
        save(tmp_path / f"{index}.png")
    assert [len(split) for split in opened(tmp_path).splits.values()] == [2, 1]


def test_first_level_subfolders_are_the_classes(tmp_path):
    for name in ("dog/1.png", "dog/near/2.png", "cat/3.png", "cat/deep/er/4.jpg", "cat/5.png"):
        save(tmp_path / name)
    collection = opened(tmp_path)
    assert collection.class_names == ("cat", "dog")
    labels = {path.name: label for split in collection.splits.values() for path, label in split}
    assert labels == {"1.png": 1, "2.png": 1, "3.png": 0, "4.jpg": 0, "5.png": 0}
    dataset = load_dataset("image_folder", "train+test", manual_dir=str(tmp_path), image_size=8)
    assert dataset.num_classes == 2
    assert sorted(int(dataset[index]["label"]) for index in range(5)) == [0, 0, 0, 1, 1]


def test_an_image_beside_the_subfolders_means_no_labels(tmp_path):
    for name in ("dog/1.png", "cat/2.png", "3.png"):
        save(tmp_path / name)
    assert opened(tmp_path).class_names is None


def test_one_subfolder_is_no_class(tmp_path):
    for name in ("all/1.png", "all/2.png"):
        save(tmp_path / name)
    assert opened(tmp_path).class_names is None


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("train", "val"),
        ("train", "validation"),
        ("train", "valid"),
        ("tr", "dev"),
        ("Train", "Test"),
        ("Training", "Testing"),
        ("TRAIN", "Valid"),
        ("dataset-1/train", "dataset-1/val"),
    ],
)
def test_subfolders_named_as_splits_are_the_splits(tmp_path, train, test):
    notes = train.replace(train.rpartition("/")[2], "notes")
    for name in (f"{train}/cat/1.png", f"{train}/dog/2.png", f"{test}/cat/3.png", f"{notes}/4.png"):
        save(tmp_path / name)
    collection = opened(tmp_path)
    assert set(collection.splits) == {"train", "test", test.rpartition("/")[2].lower()}
    assert files(collection, "train", tmp_path) == {f"{train}/cat/1.png", f"{train}/dog/2.png"}
    assert files(collection, "test", tmp_path) == {f"{test}/cat/3.png"}
    assert collection.class_names == ("cat", "dog")
    assert [label for _, label in collection.splits["test"]] == [0]
    assert collection.split_rule == f"train is {tmp_path / train}, test is {tmp_path / test}"


def test_of_two_held_out_folders_test_is_the_test_split(tmp_path):
    for name in ("Train/1.png", "val/2.png", "Test/3.png"):
        save(tmp_path / name)
    collection = opened(tmp_path)
    assert list(collection.splits) == ["train", "test", "val"]
    assert files(collection, "test", tmp_path) == {"Test/3.png"}
    assert files(collection, "val", tmp_path) == {"val/2.png"}


@pytest.mark.parametrize("above", ["", "dataset-1/"])
def test_train_alone_is_split_by_digest(tmp_path, above):
    for index in range(30):
        save(tmp_path / f"{above}train/{'cat' if index % 2 else 'dog'}/{index}.png")
    alone, given = opened(tmp_path), opened(tmp_path / above / "train")
    assert alone.class_names == ("cat", "dog")
    for split in ("train", "test"):
        assert list(alone.splits[split]) == list(given.splits[split])
    assert 0 < len(alone.splits["test"]) < 10 < len(alone.splits["train"])
    assert "no folders train and test" in alone.split_rule
    assert f"one image in ten of {tmp_path / above / 'train'} is a test image" in alone.split_rule


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["test/1.png", "valid/2.png"], "test, valid"),  # no training images
        (["train/1.png", "unlabeled/2.png"], "train"),
        (["bus/1.png", "car/2.png", "train/3.png"], "train"),
        (["train/1.png", "training/2.png", "test/3.png"], "test, train, training"),  # which of the two?
        (["train/1.png", "Test/2.png", "test/3.png"], "Test, test, train"),
        (["set/train/1.png", "set/extra/2.png"], "train"),
        (["train/train/1.png", "test/test/2.png"], "test, train"),  # as some archives unpack
    ],
)
def test_splits_are_not_taken_for_classes(tmp_path, names, says):
    for name in names:
        save(tmp_path / name)
    with pytest.raises(ValueError, match=rf"^manual_dir must .*; got '.*', where {says} would be classes") as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)


def test_a_class_may_have_the_name_of_a_split_below_train(tmp_path):
    for name in ("train/bus/1.png", "train/car/2.png", "train/train/3.png"):
        save(tmp_path / name)
    assert opened(tmp_path).class_names == ("bus", "car", "train")


def test_an_empty_split_folder_is_named(tmp_path):
    save(tmp_path / "train" / "1.png")
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match=r"^manual_dir must hold images of every split; got '.*test'"):
        opened(tmp_path)


def test_hidden_and_other_files_are_ignored(tmp_path):
    for name in ("1.png", "2.png", ".hidden.png", ".thumbnails/3.png"):
        save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("1.png,cat")
    collection = opened(tmp_path)
    found = files(collection, "train", tmp_path) | files(collection, "test", tmp_path)
    assert found == {"1.png", "2.png"}


def test_links_are_followed_but_not_in_circles(tmp_path):
    save(tmp_path / "elsewhere" / "1.png")
    save(tmp_path / "photos" / "2.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "photos" / "linked")
    os.symlink(tmp_path / "photos", tmp_path / "photos" / "circle")
    collection = opened(tmp_path / "photos")
    assert {path.name for split in collection.splits.values() for path, _ in split} == {"1.png", "2.png"}


@pytest.mark.parametrize(
    ("modes", "channels"),
    [(["L", "L"], 1), (["1", "L", "I;16", "LA"], 1), (["L", "RGB"], 3), (["P", "P"], 3), (["RGBA", "L"], 3)],
)
def test_gray_files_give_one_channel(tmp_path, modes, channels):
    for index, mode in enumerate(modes):
        save(tmp_path / f"{index}.png", mode=mode)
    dataset = load_dataset("image_folder", "train+test", manual_dir=str(tmp_path), image_size=8)
    assert dataset.channels == channels
    assert all(dataset[index]["image"].shape == (8, 8, channels) for index in range(len(modes)))


def test_every_format_that_pillow_writes_and_reads(tmp_path):
    suffixes = ["png", "jpg", "JPEG", "webp", "bmp", "gif", "tif", "ppm", "tga"]
    for suffix in suffixes:
        save(tmp_path / f"image.{suffix}", color=(255, 0, 0))
    dataset = load_dataset("image_folder", "train+test", manual_dir=str(tmp_path), image_size=8)
    assert len(dataset) == len(suffixes)
    for index in range(len(dataset)):
        np.testing.assert_allclose(dataset[index]["image"][4, 4], [255, 0, 0], atol=3)


@pytest.mark.parametrize(
    ("sizes", "decode_size", "canvas"),
    [
        ([(20, 20), (20, 20)], None, 20),  # squares of one size: their own size
        ([(20, 20), (20, 20)], 24, 24),
        ([(20, 20), (30, 30)], None, 12),  # otherwise 3/2 of image_size
        ([(20, 30), (20, 30)], None, 12),
        ([(20, 30), (30, 20)], 16, 16),
    ],
)
def test_canvas(tmp_path, sizes, decode_size, canvas):
    for index, size in enumerate(sizes):
        save(tmp_path / f"{index}.png", size=size)
    dataset = load_dataset(
        "image_folder", "train+test", manual_dir=str(tmp_path), image_size=8, decode_size=decode_size
    )
    assert dataset.canvas == canvas
    found = {(dataset[index]["image"].shape, float(dataset[index]["aspect_ratio"])) for index in range(2)}
    assert found == {((canvas, canvas, 3), float(np.float32(width / height))) for width, height in sizes}


def test_unreadable_files_are_named_and_replaced(tmp_path, caplog):
    rng = np.random.default_rng(0)
    for index in range(4):
        noise = PIL.Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
        noise.save(tmp_path / f"good{index}.jpg")
    whole = (tmp_path / "good0.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.webp").write_text("not an image")
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset("image_folder", "train+test", manual_dir=str(tmp_path), image_size=8)
    assert [record.getMessage() for record in caplog.records] == [
        "image_folder train+test: 1 unreadable, truncated or damaged: cut.jpg",
        "image_folder train+test: 1 unreadable, empty: empty.png",
        "image_folder train+test: 1 unreadable, of no format that Pillow knows: text.webp",
    ]
    # They keep their places: a file that goes bad must not move the others.
    assert len(dataset) == 7
    assert all(dataset[index]["image"].shape == (64, 64, 3) for index in range(7))
    names = {dataset.name_of(index).rpartition("/")[2] for index in dataset.unreadable}
    assert names == {"cut.jpg", "empty.png", "text.webp"}


def test_files_beyond_the_sample_are_inspected_when_they_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "DECODED_AT_START", 2)
    monkeypatch.setattr(inspection, "OPENED_AT_START", 6)
    paths = [save(tmp_path / f"{index}.png", size=(64, 64)) for index in range(10)]
    paths.sort(key=lambda path: hashlib.sha256(path.name.encode()).digest())
    paths[1].write_bytes(paths[1].read_bytes()[:60])  # truncated: found by decoding
    paths[3].write_bytes(paths[3].read_bytes()[:60])  # truncated, with an intact header
    paths[4].write_bytes(b"")  # found by opening
    paths[8].write_bytes(b"")
    assert sorted(opened(tmp_path).notes) == sorted(
        [f"1 unreadable, empty: {paths[4].name}", f"1 unreadable, truncated or damaged: {paths[1].name}"]
    )
    dataset = load_dataset("image_folder", "test+train", manual_dir=str(tmp_path), image_size=8)
    for index in range(len(dataset)):
        assert dataset[index]["image"].shape == (64, 64, 3)
    unreadable = {dataset.name_of(index) for index in dataset.unreadable}
    assert unreadable == {str(paths[index]) for index in (1, 3, 4, 8)}


def test_no_folder():
    with pytest.raises(ValueError, match=r"^manual_dir must be the folder of images when .*; got None$"):
        open_collection("image_folder")


def test_no_such_folder(tmp_path):
    with pytest.raises(ValueError, match=r"^manual_dir must be a folder; got '.*nowhere'"):
        opened(tmp_path / "nowhere")


def test_no_image_in_the_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    said = r"^manual_dir must hold image files, such as .*; got '.*', which holds none \(left out: 1 \.txt\)$"
    with pytest.raises(ValueError, match=said):
        opened(tmp_path)


def test_no_readable_image_in_the_folder(tmp_path):
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"^manual_dir must hold readable .* none of the 1 images .* \(1 unreadable, empty: 1\.png\)$"
    ):
        opened(tmp_path)


def test_unknown_split(tmp_path):
    save(tmp_path / "1.png")
    save(tmp_path / "2.png")
    with pytest.raises(ValueError, match=r"^split must be one of train, test, or a part .*; got 'validation'$"):
        load_dataset("image_folder", "validation", manual_dir=str(tmp_path), image_size=8)
