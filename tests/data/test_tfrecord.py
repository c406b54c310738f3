"""Datasets that tfds prepared as TFRecord: read in any order, without conversion; and damaged shards."""

import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data.files import masked_crc32c, tfrecord_file, write_tfrecord_shards
from vicreg_jax.data import UnreadableImagesError, identify, load_dataset, open_collection, tfds_source
from vicreg_jax.data.prepared import read_records
from vicreg_jax.data.records import open_records
from vicreg_jax.data.tfrecord import scan_tfrecord

SHARDS = 2


def as_tfrecord(prepared, folder, name):
    """A copy of a prepared dataset with its records in two TFRecord files; returns the directory of its version."""
    shutil.copytree(Path(prepared) / name, folder / name)
    version = folder / name / "1.0.0"
    [file] = version.glob("*.array_record*")
    write_tfrecord_shards(version, read_records(str(file)), SHARDS)
    file.unlink()
    return version


@pytest.fixture(scope="module")
def pristine(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfrecord")
    for name in ("set_of_photos", "set_without_labels"):
        as_tfrecord(prepared, folder, name)
    return folder


@pytest.fixture
def version(pristine, tmp_path):
    """The directory of a version, to damage."""
    shutil.copytree(pristine, tmp_path / "data")
    return tmp_path / "data" / "set_without_labels" / "1.0.0"


def opened(version, **options):
    return open_collection("set_without_labels", data_dir=str(version.parents[1]), **options)


def test_checksum():
    """The first one is of RFC 3720, B.4, masked."""
    crc = 0x8A9136AA
    assert masked_crc32c(bytes(32)) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize("name", ["set_of_photos", "set_without_labels"])
def test_the_same_images_as_in_array_record(prepared, pristine, name):
    ours, theirs = (load_dataset(name, "train", data_dir=str(place), image_size=4) for place in (pristine, prepared))
    assert len(ours) == len(theirs) > 0
    assert (ours.channels, ours.canvas, ours.class_names) == (theirs.channels, theirs.canvas, theirs.class_names)
    for index in reversed(range(len(ours))):
        for key, value in theirs[index].items():
            np.testing.assert_array_equal(ours[index][key], value)


@pytest.mark.parametrize("sizes", [[], [0], [5, 0, 1000], list(range(40))])
def test_where_the_records_of_a_file_lie(tmp_path, sizes):
    expected = [bytes([index]) * size for index, size in enumerate(sizes)]
    file = tmp_path / "a.tfrecord"
    file.write_bytes(tfrecord_file(expected))
    found = open_records([file], scan_tfrecord, version="1", argument="data_dir")
    assert list(found) == expected
    assert found.table["digest"].tolist() == list(map(masked_crc32c, expected))
    assert list(pickle.loads(pickle.dumps(found))) == expected


def damage_size(file):
    content = bytearray(file.read_bytes())
    content[1] ^= 1
    file.write_bytes(content)


def damage_size_to_the_end_of_the_file(file):
    content = file.read_bytes()
    file.write_bytes((len(content) - 16).to_bytes(8, "little") + content[8:])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "truncated"),
        (lambda file: file.write_bytes(file.read_bytes()[:-5]), "truncated"),
        (lambda file: file.write_bytes(file.read_bytes()[:11]), "truncated"),
        (lambda file: file.write_bytes(file.read_bytes() + b"more"), "truncated"),
        (lambda file: file.write_bytes(b""), "0 of 4 records"),
        (lambda file: file.write_bytes(tfrecord_file([b"one"])), "1 of 4 records"),
        (damage_size, "damaged at record 0"),
        (damage_size_to_the_end_of_the_file, "damaged at record 0"),
        (Path.unlink, "No such file or directory"),
    ],
)
def test_damaged_shards_are_named_with_the_remedy(version, damage, says):
    file = min(version.glob("*.tfrecord*"))
    damage(file)
    with pytest.raises(ValueError) as error:
        opened(version)
    message = str(error.value)
    assert str(file) in message
    assert "\n" not in message
    assert says in message
    assert message.startswith("data_dir must hold ")


def test_every_place_where_a_file_may_be_cut(tmp_path):
    file = tmp_path / "a.tfrecord"
    content = tfrecord_file([b"one", b"", b"three"])
    whole = {len(tfrecord_file(part)) for part in ([], [b"one"], [b"one", b""], [b"one", b"", b"three"])}
    for size in range(len(content) + 1):
        file.write_bytes(content[:size])
        if size in whole:
            scan_tfrecord(file)
        else:
            with pytest.raises(ValueError, match=r"\(truncated\); remove "):
                scan_tfrecord(file)


def test_the_index_is_kept_until_a_file_changes(version, tmp_path, monkeypatch):
    scanned = []

    def scan(path):
        scanned.append(path.name)
        return scan_tfrecord(path)

    monkeypatch.setattr("vicreg_jax.data.tfds_source.scan_tfrecord", scan)
    before = opened(version, cache_dir=tmp_path / "cache")
    assert len(scanned) == SHARDS
    again = opened(version, cache_dir=tmp_path / "cache")
    assert len(scanned) == SHARDS
    assert list(again.splits["train"]) == list(before.splits["train"])
    assert again.edition == before.edition

    file = max(version.glob("*.tfrecord*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the checksum of the last record
    file.write_bytes(content)
    os.utime(file, ns=(0, 0))
    after = opened(version, cache_dir=tmp_path / "cache")
    assert len(scanned) == 2 * SHARDS
    assert after.edition != before.edition


def test_an_index_that_is_damaged_or_of_other_files_is_replaced(pristine, tmp_path):
    cache = tmp_path / "cache"

    def images(name):
        return list(open_collection(name, data_dir=str(pristine), cache_dir=cache).splits["train"])

    expected = images("set_without_labels")
    [index] = cache.iterdir()
    whole = index.read_bytes()
    photos = images("set_of_photos")
    [other] = set(cache.iterdir()) - {index}
    for content in (b"", whole[:100], whole[:-30], b"no index", other.read_bytes()):
        index.write_bytes(content)
        assert images("set_without_labels") == expected
        assert index.read_bytes() == whole
    assert images("set_of_photos") == photos


def test_a_cache_that_cannot_be_written_is_no_error(pristine, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert len(open_collection("set_of_photos", data_dir=str(pristine), cache_dir=tmp_path / "cache").splits["train"])


@pytest.mark.parametrize("change", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-50])])
def test_a_shard_that_changes_under_a_run_ends_it(version, change):
    dataset = load_dataset("set_without_labels", "train", data_dir=str(version.parents[1]), image_size=4)
    dataset = pickle.loads(pickle.dumps(dataset))  # as a worker process gets it
    file = max(version.glob("*.tfrecord*"))
    change(file)
    dataset[0]  # in the other file
    with pytest.raises(UnreadableImagesError) as error:
        dataset[8]
    assert str(error.value) == (
        f"data_dir must hold the files that were opened; got {str(file)!r}, which has changed since; "
        "run the same command again"
    )


def test_a_shard_that_is_cut_while_it_is_open(version):
    dataset = load_dataset("set_without_labels", "train", data_dir=str(version.parents[1]), image_size=4)
    dataset[8]
    os.truncate(max(version.glob("*.tfrecord*")), 100)
    with pytest.raises(UnreadableImagesError, match=r"^data_dir must hold .* has changed since"):
        dataset[8]


def open_below(folder):
    """The files below a folder that this process has open."""
    links = [f"/proc/self/fd/{descriptor}" for descriptor in os.listdir("/proc/self/fd")]
    return [link for link in links if os.path.lexists(link) and os.readlink(link).startswith(str(folder))]


def test_more_shards_than_files_may_be_open(tmp_path, monkeypatch):
    files = []
    for number in range(20):
        files.append(tmp_path / f"{number}")
        files[-1].write_bytes(tfrecord_file([b"%d" % number]))
    monkeypatch.setattr("resource.getrlimit", lambda _: (24, 24))
    found = open_records(files, scan_tfrecord, version="1", argument="data_dir")
    for _ in range(2):
        assert list(found) == [b"%d" % number for number in range(20)]
    assert len(found._reader._descriptors) == len(open_below(tmp_path)) == 3
    del found
    assert not open_below(tmp_path)


def test_identity_is_the_content(pristine, version):
    def record(place):
        return identify(load_dataset("set_without_labels", "train", data_dir=str(place), image_size=4)).record()

    assert record(pristine) == record(version.parents[1])
    assert ", records " in record(pristine)["edition"]


def test_another_format_is_refused(version):
    info = version / "dataset_info.json"
    info.write_text(info.read_text().replace("tfrecord", "riegeli"))
    with pytest.raises(ValueError) as error:
        opened(version)
    assert str(error.value) == (
        f"data_dir must hold datasets in the format array_record or tfrecord; got {str(version)!r} "
        "in the format riegeli"
    )


def test_a_bucket_is_refused():
    split = SimpleNamespace(filepaths=["gs://bucket/a.tfrecord"])
    builder = SimpleNamespace(info=SimpleNamespace(splits={"train": split}), data_dir="gs://bucket")
    with pytest.raises(ValueError, match=r"^data_dir must be a local directory for .* tfrecord; got 'gs://bucket'$"):
        tfds_source._tfrecords(builder, "train", None)


@pytest.mark.slow
def test_tfds_writes_what_is_read(prepared, tmp_path):
    pytest.importorskip("tensorflow")
    from tests.data.builders import SetOfPhotos

    builder = SetOfPhotos(data_dir=str(tmp_path))
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=config, file_format="tfrecord")
    ours, theirs = (
        load_dataset("set_of_photos", "train", data_dir=str(place), image_size=4) for place in (tmp_path, prepared)
    )
    assert len(ours) == len(theirs)
    for index in range(len(ours)):
        np.testing.assert_array_equal(ours[index]["image"], theirs[index]["image"])
        assert ours[index]["label"] == theirs[index]["label"]
