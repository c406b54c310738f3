"""Preparing datasets: by several processes at once, without a network, and what went wrong in one line."""

import logging
import os
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds
from absl import logging as absl_logging

from tests.data.builders import SetOfPhotos, SetWithoutLabels
from vicreg_jax.data import prepare


@pytest.fixture
def installed(monkeypatch):
    """As if TensorFlow were installed."""
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda _: object())


def test_the_loser_of_a_race_uses_the_winners_copy(tmp_path, monkeypatch):
    builder = SetWithoutLabels(data_dir=str(tmp_path))

    def lost(**options):
        type(builder).download_and_prepare(SetWithoutLabels(data_dir=str(tmp_path)), **options)
        raise OSError("Directory not empty")

    monkeypatch.setattr(builder, "download_and_prepare", lost)
    prepare.prepare_here(builder)
    assert builder.is_prepared()


RACE = """
import sys
from tests.data.builders import SetOfPhotos
from vicreg_jax.data.prepare import prepare_here
from vicreg_jax.data.tfds_builder import quiet

with quiet():
    prepare_here(SetOfPhotos(data_dir=sys.argv[1]))
assert "tensorflow" not in sys.modules
"""


@pytest.mark.slow
def test_two_processes_prepare_at_once_without_noise(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in processes]
    assert said == [("", "")] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert [path.name for path in (tmp_path / "set_of_photos").iterdir()] == ["1.0.0"]


def test_no_network_is_an_error_at_once(tmp_path, monkeypatch):
    def no_address(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(prepare.socket, "getaddrinfo", no_address)
    monkeypatch.setattr(prepare.urllib.request, "getproxies", dict)
    with pytest.raises(ValueError) as error:
        prepare.prepare_here(tfds.builder("fashion_mnist", data_dir=str(tmp_path)))
    message = str(error.value)
    assert message.startswith(
        "name must be a dataset that can be downloaded here; got 'fashion_mnist' (no network: fashion-mnist."
    )
    assert "set manual_dir" in message
    assert "\n" not in message


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    import requests

    def fail(*_, **__):
        raise requests.ConnectionError("Connection refused\nand more")

    monkeypatch.setattr(prepare.socket, "getaddrinfo", lambda *_: [])
    builder = tfds.builder("fashion_mnist", data_dir=str(tmp_path))
    monkeypatch.setattr(builder, "download_and_prepare", fail)
    with pytest.raises(ValueError) as error:
        prepare.prepare_here(builder)
    assert "; got 'fashion_mnist' (ConnectionError: Connection refused). " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def fail(*_, **__):
        try:
            raise ModuleNotFoundError("No module named 'scipy'", name="scipy")
        except ModuleNotFoundError as error:  # as tfds does, which loses the name
            raise ModuleNotFoundError("Failed to encode example:\n{'image': ...}") from error

    builder = SetOfPhotos(data_dir=str(tmp_path))
    monkeypatch.setattr(builder, "download_and_prepare", fail)
    with pytest.raises(ValueError, match=r"^name must .* requires the package scipy \(pip install scipy\); got '"):
        prepare.prepare_here(builder)


def test_files_to_bring_by_hand(tmp_path):
    with pytest.raises(ValueError) as error:
        prepare.prepare_here(tfds.builder("imagenet2012", data_dir=str(tmp_path)))
    message = str(error.value)
    assert message.startswith("manual_dir must hold the files of 'imagenet2012': manual_dir should")
    assert "\n" not in message


def test_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    builder = SetOfPhotos(data_dir=str(tmp_path / "file" / "below"))
    with pytest.raises(ValueError, match=r"^data_dir must be writable; got '.*' \(NotADirectoryError"):
        prepare.prepare_here(builder)


def test_tensorflow_is_missing(monkeypatch):
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(prepare.subprocess, "run", None)  # no process is started
    with pytest.raises(ValueError, match=r"TensorFlow \(pip install 'vicreg_jax\[prepare\]'\); got 'cifar10'$"):
        prepare.prepare_in_subprocess("cifar10", data_dir=None, manual_dir=None)


@pytest.mark.parametrize(
    ("stdout", "message"),
    [
        ("a notice\ndata_dir must be writable; got '/'\n", r"^data_dir must be writable; got '/'$"),
        ("", r"^name must be a dataset that can be prepared here; got 'cifar10', whose preparation failed$"),
    ],
)
def test_the_last_line_of_the_subprocess_becomes_the_error(installed, monkeypatch, stdout, message):
    def run(arguments, **_):
        assert arguments[1:] == ["-m", "vicreg_jax.data.prepare", "cifar10", "--data_dir=/a b"]
        return subprocess.CompletedProcess(arguments, 2, stdout)

    monkeypatch.setattr(prepare.subprocess, "run", run)
    with pytest.raises(ValueError, match=message):
        prepare.prepare_in_subprocess("cifar10", data_dir="/a b", manual_dir=None)


@pytest.mark.slow
def test_a_real_subprocess(installed, tmp_path):
    with pytest.raises(ValueError, match=r"^name must .*; got 'fashion_mnst' \(did you mean 'fashion_mnist'\?\)$"):
        prepare.prepare_in_subprocess("fashion_mnst", data_dir=str(tmp_path), manual_dir=None)


@pytest.fixture
def command_line(monkeypatch):
    """`command_line(*arguments)`: the exit code of the module; logging levels are restored afterwards."""
    urllib3 = logging.getLogger("urllib3")
    levels = urllib3.level, absl_logging.get_verbosity()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare", *arguments])
        return prepare.main()

    yield run
    urllib3.setLevel(levels[0])
    absl_logging.set_verbosity(levels[1])


def test_command_line_prepares(installed, command_line, tmp_path, monkeypatch, capsys):
    builder = SetOfPhotos(data_dir=str(tmp_path))
    monkeypatch.setattr(prepare, "find_builder", lambda *_, **__: builder)
    assert command_line("set_of_photos", f"--data_dir={tmp_path}") == 0
    assert builder.is_prepared()
    monkeypatch.setattr(prepare, "prepare_here", None)
    assert command_line("set_of_photos", f"--data_dir={tmp_path}") == 0  # nothing left to do
    assert capsys.readouterr().out == ""


def test_command_line_says_what_is_wrong_in_one_line(command_line, capsys):
    assert command_line("fashion_mnst") == 2
    out = capsys.readouterr().out
    assert out.startswith("name must be ")
    assert out.count("\n") == 1
