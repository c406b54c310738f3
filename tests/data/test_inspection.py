"""What opening a folder says, counts and remembers."""

import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from vicreg_jax.data import checked_files, image_files, images, inspection, open_collection
from vicreg_jax.data.in_flight import PixelBudget


def opened(folder, **options):
    return open_collection("image_folder", manual_dir=str(folder), **options)


def save(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size).save(path)


@pytest.fixture
def folder(tmp_path):
    for index in range(6):
        save(tmp_path / "photos" / f"{index}.png", (32 + index, 16))
    return tmp_path / "photos"


@pytest.fixture
def new_process(monkeypatch):
    """Forgets what this process knows."""
    return lambda: monkeypatch.setattr(checked_files, "_in_this_process", {})


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were opened, in order."""
    names = []
    open_image = inspection.open_image
    monkeypatch.setattr(
        inspection, "open_image", lambda path, *rest: (names.append(path.name), open_image(path, *rest))[1]
    )
    return names


def test_what_was_left_out_is_counted_by_suffix(folder):
    for name in ("1.heic", "2.HEIC", "a.svg", "README", "notes.txt", "more/labels.txt", "more/list.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    [left_out] = opened(folder).notes
    assert left_out.startswith("left out: 3 .txt, 2 .heic (pip install pillow-heif), 1 ")
    assert sorted(left_out.split(", ")[2:]) == ["1 .svg", "1 without a suffix"]


def test_what_other_programs_leave_behind_is_ignored(folder):
    for name in ("@eaDir/1.png", "__MACOSX/2.png", ".thumbnails/3.png", "cats/@eaDir/4.png"):
        save(folder / name)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (folder / name).write_text("x")
    collection = opened(folder)
    assert sum(map(len, (collection.splits["train"], collection.splits["test"]))) == 6
    assert collection.notes == ()


def test_mpo_is_read_as_jpeg(folder):
    PIL.Image.new("RGB", (32, 16)).save(folder / "3d.mpo", save_all=True)
    collection = opened(folder)
    assert any(path.suffix == ".mpo" for split in collection.splits.values() for path, _ in split)
    assert collection.notes == ()


def test_heic_is_read_where_pillow_heif_is(folder, monkeypatch):
    def register_heif_opener():
        monkeypatch.setitem(PIL.Image.EXTENSION, ".heic", "PNG")

    (folder / "0.png").rename(folder / "0.heic")
    monkeypatch.setitem(
        sys.modules,
        "pillow_heif",
        SimpleNamespace(register_heif_opener=register_heif_opener, __spec__=SimpleNamespace()),
    )
    for cached in (images.register_heif, image_files.image_suffixes):
        cached.cache_clear()
    collection = opened(folder)
    for cached in (images.register_heif, image_files.image_suffixes):
        cached.cache_clear()
    assert sum(map(len, (collection.splits["train"], collection.splits["test"]))) == 6
    assert collection.notes == ()


def test_too_large_an_image_names_the_limit(folder):
    save(folder / "large.png", (60, 40))
    [note] = opened(folder, max_pixels=2000).notes
    assert note == "1 unreadable, too large (max_pixels=2000): large.png"
    assert opened(folder, max_pixels=2400).notes == ()


def test_max_pixels_may_exceed_pillows_own_limit(folder, monkeypatch):
    save(folder / "large.png", (60, 40))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(images, "MAX_PIXELS", 2000)
    [note] = opened(folder, max_pixels=2000).notes
    assert note == "1 unreadable, too large (max_pixels=2000): large.png"
    assert opened(folder, max_pixels=2400).notes == ()
    assert PIL.Image.MAX_IMAGE_PIXELS == 1000


def test_a_file_that_may_not_be_opened_says_so(folder):
    os.symlink(folder / "nowhere", folder / "dangling.png")
    assert opened(folder).notes[0] == "1 unreadable, No such file or directory: dangling.png"


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["cat/1.png", "dog/2.png", "thumbnail.jpg"], "1 image lies beside the class folders: thumbnail.jpg"),
        (
            ["cat/1.png", "a.jpg", "b.jpg", "c.jpg", "d.jpg"],
            "4 images lie beside the class folders: a.jpg, b.jpg, c.jpg, ...",
        ),
        (["all/1.png", "all/2.png"], "all images lie in one folder, all"),
        (["cat/1.png", b"\xff.jpg"], "1 image lies beside the class folders: \ufffd.jpg"),
    ],
)
def test_why_there_are_no_labels(tmp_path, names, why):
    for name in names:
        save(tmp_path / os.fsdecode(name))
    assert opened(tmp_path).notes == (f"unlabeled: {why}",)


def test_images_beside_the_splits_are_counted(tmp_path):
    for name in ("train/a/1.png", "train/b/2.png", "test/a/3.png", "extra/4.png"):
        save(tmp_path / name)
    assert opened(tmp_path).notes == ("left out: 1 image in the folder of no split",)


def test_what_was_checked_is_remembered_by_size_and_time(folder, tmp_path, decoded, new_process, monkeypatch):
    monkeypatch.setattr(inspection, "_SECONDS_WORTH_KEEPING", 0)
    (folder / "bad.png").write_bytes(b"")
    options = {"cache_dir": tmp_path / "cache"}
    first = opened(folder, **options)
    assert sorted(decoded) == [*(f"{index}.png" for index in range(6)), "bad.png"]
    for renew in (lambda: None, new_process):
        renew()
        decoded.clear()
        again = opened(folder, **options)
        assert decoded == ["bad.png"]  # what cannot be read is tried again
        assert list(again.splits["train"]) == list(first.splits["train"])
        assert (again.channels, again.side, again.notes) == (
            first.channels,
            first.side,
            first.notes,
        )
    new_process()
    decoded.clear()
    os.utime(folder / "2.png", ns=(0, 0))
    save(folder / "3.png", (200, 100))
    opened(folder, **options)
    assert sorted(decoded) == ["2.png", "3.png", "bad.png"]
    decoded.clear()
    opened(folder, max_pixels=600, **options)  # other rules
    assert len(decoded) == 7


@pytest.mark.parametrize("content", ["", "[]", '{"0.png": 3, "1.png": [[1, 2], 5], "2.png": null}'])
def test_a_memory_that_is_no_memory_is_none(folder, tmp_path, decoded, new_process, monkeypatch, content):
    monkeypatch.setattr(inspection, "_SECONDS_WORTH_KEEPING", 0)
    opened(folder, cache_dir=tmp_path / "cache")
    [file] = (tmp_path / "cache").iterdir()
    file.write_text(content)
    new_process()
    decoded.clear()
    opened(folder, cache_dir=tmp_path / "cache")
    assert len(decoded) == 6


def test_a_cache_that_cannot_be_written_is_none(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "_SECONDS_WORTH_KEEPING", 0)
    (tmp_path / "file").write_text("")
    assert opened(folder, cache_dir=tmp_path / "file" / "below").channels == 3


def test_small_folders_leave_no_file(folder, tmp_path):
    opened(folder, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_progress_counts_to_the_end(folder):
    counts = []
    opened(folder, progress=lambda *count: counts.append(count))
    assert counts == [(done, 6) for done in range(1, 7)]


def test_progress_shows_while_the_first_file_is_decoded(folder, monkeypatch):
    first, *others = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.png"))
    shown, look = threading.Event(), inspection._open

    def slow(path, *arguments):
        assert path != folder / first or shown.wait(10)
        return look(path, *arguments)

    monkeypatch.setattr(inspection, "_open", slow)
    found = inspection.inspect(
        folder, [first, *others], max_pixels=10**6, progress=lambda *count: shown.set(), cache_dir=None
    )
    assert list(found.readable) == [first, *others]


def test_large_images_are_decoded_within_the_budget(folder, monkeypatch):
    taken = []
    take = PixelBudget.take
    monkeypatch.setattr(PixelBudget, "take", lambda self, pixels: (taken.append(pixels), take(self, pixels))[1])
    monkeypatch.setattr(inspection, "_LARGE", 35 * 16)
    opened(folder)
    assert sorted(taken) == [36 * 16, 37 * 16]


def test_a_budget_lets_a_larger_image_go_alone():
    budget, inside, most = PixelBudget(10), [], []

    def decode(pixels):
        with budget.take(pixels):
            inside.append(min(pixels, 10))
            most.append(sum(inside))
            inside.remove(min(pixels, 10))

    threads = [threading.Thread(target=decode, args=(pixels,)) for pixels in np.arange(1, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 29
    assert max(most) <= 10
