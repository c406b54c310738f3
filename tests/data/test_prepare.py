"""Preparing data sets: without TensorFlow for our own, quietly, by several at once, without a network."""

import os
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from vicreg_jax.data import open_collection, prepare
from vicreg_jax.data.builders import Digits
from vicreg_jax.runtime.errors import InputError

TRAINING = """
import sys
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from vicreg_jax.data import evaluation_batches, load_dataset, train_batches

dataset = load_dataset("digits", "train", data_dir=sys.argv[1], image_size=8)
mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec("data"))
for resident in (True, False):
    next(train_batches(dataset, batch_size=16, seed=0, sharding=sharding, resident=resident))
    next(evaluation_batches(dataset, batch_size=16, sharding=sharding, resident=resident))
assert "tensorflow" not in sys.modules
print(len(dataset))
"""


def python(*arguments, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        **options,
    )


def test_two_processes_prepare_at_once_and_train_without_tensorflow_or_noise(tmp_path):
    processes = [python("-c", TRAINING, str(tmp_path)) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert said == [("1437\n", "")] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_who_loses_the_race_uses_the_winners_copy(tmp_path, monkeypatch):
    builder = Digits(data_dir=str(tmp_path))

    def lost(**options):
        type(builder).download_and_prepare(Digits(data_dir=str(tmp_path)), **options)
        raise OSError("Directory not empty")

    monkeypatch.setattr(builder, "download_and_prepare", lost)
    prepare.prepare_here(builder)
    assert builder.is_prepared()


def no_address(*_):
    raise OSError("Name or service not known")


def test_no_network_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare.socket, "getaddrinfo", no_address)
    monkeypatch.setattr(prepare.urllib.request, "getproxies", dict)
    with pytest.raises(InputError) as error:
        prepare.prepare_here(tfds.builder("fashion_mnist", data_dir=str(tmp_path)))
    message = str(error.value)
    assert message.startswith("config.data.name: 'fashion_mnist' cannot be downloaded (no network: fashion-mnist.")
    assert "config.data.manual_dir" in message
    assert "\n" not in message


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    import requests

    def fail(*_, **__):
        raise requests.ConnectionError("Connection refused\nand more")

    monkeypatch.setattr(prepare.socket, "getaddrinfo", lambda *_: [])
    builder = tfds.builder("fashion_mnist", data_dir=str(tmp_path))
    monkeypatch.setattr(builder, "download_and_prepare", fail)
    with pytest.raises(InputError) as error:
        prepare.prepare_here(builder)
    assert "cannot be downloaded (ConnectionError: Connection refused);" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def fail(*_, **__):
        try:
            raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
        except ModuleNotFoundError as error:  # as tfds does, which loses the name
            raise ModuleNotFoundError("Failed to encode example:\n{'image': ...}") from error

    builder = Digits(data_dir=str(tmp_path))
    monkeypatch.setattr(builder, "download_and_prepare", fail)
    with pytest.raises(InputError, match=r"needs the package tensorflow .*: pip install tensorflow$"):
        prepare.prepare_here(builder)


def test_what_tfds_wants_brought_by_hand(tmp_path):
    with pytest.raises(InputError) as error:
        prepare.prepare_here(tfds.builder("imagenet2012", data_dir=str(tmp_path)))
    message = str(error.value)
    assert message.startswith("config.data.manual_dir: 'imagenet2012' must be downloaded by hand: manual_dir should")
    assert "\n" not in message


def test_by_hand_from_the_command_line(tmp_path):
    process = python("-m", "vicreg_jax.data.prepare", "digits", f"--data_dir={tmp_path}")
    out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "")
    assert len(open_collection("digits", data_dir=str(tmp_path)).splits["test"]) == 360

    process = python("-m", "vicreg_jax.data.prepare", "digitss", f"--data_dir={tmp_path}")
    out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (
        2,
        "config.data.name: there is no data set 'digitss'; did you mean digits?\n",
    )


def test_what_the_subprocess_says_becomes_the_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^config.data.data_dir: .* cannot be written \(NotADirectoryError"):
        prepare.prepare_in_subprocess("digits", data_dir=str(tmp_path / "file"), manual_dir=None)
