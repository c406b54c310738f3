"""Datasets by tfds name: which features are used, in which format, and the errors of those that cannot be used."""

import itertools
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tensorflow_datasets.core.utils import tqdm_utils

from tests.data.builders import PHOTOS
from vicreg_jax.data import identify, load_dataset, open_collection, tfds_source, train_batches
from vicreg_jax.data.images import decode_to_canvas
from vicreg_jax.data.tfds_builder import quiet


def test_photos_of_all_sizes(prepared):
    dataset = load_dataset("set_of_photos", "train", data_dir=prepared, image_size=4)
    assert (dataset.canvas, dataset.channels, dataset.class_names) == (6, 3, ("cat", "dog", "owl"))
    for element in (dataset[index] for index in range(3)):
        photo = PHOTOS[element["label"]]
        np.testing.assert_array_equal(element["image"], decode_to_canvas(photo, 6, 3)[0])
        assert element["aspect_ratio"] == np.float32(photo.shape[1] / photo.shape[0])
    assert load_dataset("set_of_photos", "train", data_dir=prepared, image_size=4, decode_size=9).canvas == 9


def test_without_labels(prepared):
    dataset = load_dataset("set_without_labels", "train", data_dir=prepared, image_size=4)
    assert (dataset.canvas, dataset.channels, dataset.num_classes) == (4, 1, None)
    assert {int(dataset[index]["label"]) for index in range(9)} == {-1}
    assert sorted(int(dataset[index]["image"][0, 0, 0]) for index in range(9)) == list(range(9))


def test_edition_is_the_version_and_its_extent(prepared):
    dataset = load_dataset("set_without_labels", "train", data_dir=prepared, image_size=4)
    assert re.fullmatch(r"set_without_labels/\d+\.\d+\.\d+(, \d+ examples of \d+ bytes in \w+)+", dataset.edition)
    assert ", 9 examples of " in dataset.edition
    assert identify(dataset).record()["edition"] == dataset.edition


def test_home_is_expanded(prepared, monkeypatch):
    monkeypatch.setenv("HOME", str(Path(prepared).parent))
    assert open_collection("set_without_labels", data_dir=f"~/{Path(prepared).name}").side == 4


def test_no_image(prepared):
    with pytest.raises(ValueError, match=r"^name must be .* one image .*; got 'set_of_words' with no image"):
        open_collection("set_of_words", data_dir=prepared)


def test_several_images(prepared):
    with pytest.raises(ValueError, match=r"; got 'set_of_pairs' with several images \(left, right\)$"):
        open_collection("set_of_pairs", data_dir=prepared)


@pytest.mark.parametrize("name", ["fashion_mnst", "fashion_mnst:3.0.1"])
def test_unknown_name(name):
    with pytest.raises(ValueError) as error:
        open_collection(name)
    assert str(error.value) == (
        f"name must be digits, image_folder, webdataset, parquet, arrays, store, or a dataset that tfds knows; "
        f"got {name!r} (did you mean 'fashion_mnist'?)"
    )


@pytest.mark.parametrize(("name", "meant"), [("digitss", "digits"), ("imagefolder", "image_folder")])
def test_names_that_tfds_does_not_know_are_suggested_too(name, meant):
    with pytest.raises(ValueError, match=rf"; got '{name}' \(did you mean '{meant}'\?\)$"):
        open_collection(name)


@pytest.mark.parametrize("name", ["mnist:9.9.9", "mnist/colored"])
def test_unknown_config_and_version(tmp_path, name):
    with pytest.raises(ValueError, match=rf"^name must be .* config and a version .*; got '{name}' \(.*\)$") as error:
        open_collection(name, data_dir=str(tmp_path))
    assert "\n" not in str(error.value)


def test_manual_dir_with_nothing_in_it(tmp_path):
    with pytest.raises(ValueError) as error:
        open_collection("fashion_mnist", data_dir=str(tmp_path), manual_dir=str(tmp_path))
    assert str(error.value) == (
        "manual_dir must hold train-images-idx3-ubyte, plain or .gz, the only files that 'fashion_mnist' reads from "
        f"there; got {str(tmp_path)!r}"
    )
    with pytest.raises(ValueError, match=r"^name must .*; got 'marks'.*, and manual_dir='.*' without IDX files$"):
        open_collection("marks", data_dir=str(tmp_path), manual_dir=str(tmp_path))


def test_a_prepared_directory_that_is_not_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_source, "prepare_in_subprocess", lambda *_, **__: None)
    version = tfds.builder("mnist", data_dir=str(tmp_path)).version
    (tmp_path / "mnist" / str(version)).mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"^data_dir must .*; got '.*{version}', which exists but holds no prepared"):
        open_collection("mnist", data_dir=str(tmp_path))


def a_copy(prepared, folder, name="set_of_photos"):
    """A prepared dataset to damage; returns the directory of its version."""
    shutil.copytree(Path(prepared) / name, folder / name)
    return folder / name / "1.0.0"


def truncate(file):
    file.write_bytes(file.read_bytes()[:100])


def flip(file):
    content = bytearray(file.read_bytes())
    content[content.find(b"IDAT") + 8] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("pattern", "damage", "says"),
    [
        ("*.array_record*", truncate, "0 of 3 records"),
        ("*.array_record*", lambda file: file.write_bytes(b""), "0 of 3 records"),
        ("*.array_record*", Path.unlink, "no such file"),
        ("*.array_record*", flip, "Corrupted"),
        ("features.json", Path.unlink, "no such file"),
        ("features.json", truncate, ""),
        ("dataset_info.json", Path.unlink, "no such file"),
        ("dataset_info.json", truncate, ""),
    ],
)
def test_damaged_files_are_named_with_the_remedy(prepared, tmp_path, pattern, damage, says):
    version = a_copy(prepared, tmp_path)
    [file] = version.glob(pattern)
    damage(file)
    with pytest.raises(ValueError) as error:
        open_collection("set_of_photos", data_dir=str(tmp_path))
    message = str(error.value)
    assert message.startswith(f"data_dir must hold intact datasets; got {str(file)!r} ({says}")
    assert message.endswith(f"; remove {version} and prepare the dataset again")
    assert "\n" not in message


def test_missing_features_of_a_dataset_that_tfds_knows(prepared, tmp_path):
    version = str(tfds.builder("mnist", data_dir=str(tmp_path)).version)
    shutil.copytree(a_copy(prepared, tmp_path), tmp_path / "mnist" / version)
    file = tmp_path / "mnist" / version / "features.json"
    file.unlink()
    with pytest.raises(
        ValueError, match=rf"^data_dir must hold intact datasets; got '{file}' \(no such file\); remove "
    ):
        open_collection("mnist", data_dir=str(tmp_path))


def test_a_damaged_record_of_a_large_dataset_is_an_unreadable_image(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_source, "_IN_MEMORY_BYTES", 0)
    [file] = a_copy(prepared, tmp_path).glob("*.array_record*")
    flip(file)
    dataset = load_dataset("set_of_photos", "train", data_dir=str(tmp_path), image_size=4)
    assert len({int(dataset[index]["label"]) for index in range(3)}) == 2
    [unreadable] = dataset.unreadable
    assert dataset.name_of(unreadable) == f"image {unreadable} of set_of_photos train"


@pytest.mark.parametrize("below", ["set_of_photos", "set_of_photos/1.0.0"])
def test_a_data_dir_too_deep(prepared, below):
    with pytest.raises(ValueError) as error:
        open_collection("set_of_photos", data_dir=f"{prepared}/{below}")
    assert str(error.value) == (
        f"data_dir must be the directory that holds 'set_of_photos', {prepared!r}; got '{prepared}/{below}': "
        f"'{prepared}/{below}/set_of_photos' is not there (prepared: set_of_photos/1.0.0)"
    )


def test_another_version_names_those_that_are_there(prepared, tmp_path, monkeypatch):
    said = rf"^name must .*; got 'set_of_photos:2\.0\.0'.* \(prepared in '{prepared}': set_of_photos/1\.0\.0\)$"
    with pytest.raises(ValueError, match=said):
        open_collection("set_of_photos:2.0.0", data_dir=prepared)

    def fail(*_, **__):
        raise ValueError("name must be a prepared dataset; got 'mnist'")

    monkeypatch.setattr(tfds_source, "prepare_in_subprocess", fail)
    shutil.copytree(a_copy(prepared, tmp_path), tmp_path / "mnist" / "1.0.0")
    with pytest.raises(ValueError, match=rf"; got 'mnist' \(prepared in '{tmp_path}': mnist/1\.0\.0\)$"):
        open_collection("mnist", data_dir=str(tmp_path))


@pytest.mark.parametrize("shown", [True, False])
def test_quiet_restores_the_progress_bars(monkeypatch, shown):
    monkeypatch.setattr(tqdm_utils, "_active", shown)
    with quiet():
        assert not tqdm_utils._active
    assert tqdm_utils._active == shown


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "set_without_labels"])
def test_worker_processes_read_every_kind_of_source(prepared, name):
    dataset = load_dataset(name, "train", data_dir=prepared, image_size=8)
    mesh = jax.make_mesh((2, 1), ("data", "fsdp"), devices=jax.devices()[:2], axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    resident, streamed = (
        list(itertools.islice(train_batches(dataset, batch_size=8, seed=0, sharding=sharding, **options), 3))
        for options in ({"resident": True}, {"workers": 1})
    )
    for first, second in zip(resident, streamed, strict=True):
        np.testing.assert_array_equal(first["image"], second["image"])
