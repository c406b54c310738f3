"""Names that are not UTF-8 are shown, and no report, whatever it does, costs the numbers."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import PIL.Image
import pytest
from rich.console import Console

from tests.report.page import Page
from tests.runs import ROOT
from vicreg_jax.data import load_dataset
from vicreg_jax.report.page import write_page
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.storage import open_directory
from vicreg_jax.tasks.results import finish
from vicreg_jax.tasks.tables import show_feature_accuracies
from vicreg_jax.tasks.task import Outcome

SUMMARY = {
    "method": "vicreg",
    "knn_accuracy": None,
    "steps": 1,
    "seconds": 1.0,
    "images_per_second": 1.0,
    "shared_images": 0,
}


def save_classes(folder):
    """Two classes of ten images, one with a name in Latin-1, in a folder with such a name."""
    for name in (b"caf\xe9", b"tea"):
        os.makedirs(folder + b"/" + name)
        for index in range(10):
            path = os.fsdecode(folder + b"/" + name + b"/%d.png" % index)
            PIL.Image.new("L", (8, 8), 20 * index + len(name)).save(path)


def test_class_names_and_paths_are_text(tmp_path):
    folder = os.fsencode(tmp_path) + b"/na\xefve"
    save_classes(folder)
    dataset = load_dataset("image_folder", "train", manual_dir=os.fsdecode(folder), image_size=8)
    assert dataset.class_names == (r"caf\xe9", "tea")
    assert {dataset[index]["label"].item() for index in range(len(dataset))} == {0, 1}
    for text in (*dataset.class_names, dataset.split_rule, *map(dataset.name_of, range(len(dataset)))):
        assert text.encode()
    assert r"na\xefve" in dataset.split_rule


def test_page_with_a_path_is_written(tmp_path):
    write_page(tmp_path / "report.html", "<p>data of caf\udce9</p>")
    assert Page((tmp_path / "report.html").read_text("utf-8")).texts == [r"data of caf\udce9"]


def test_workdir_that_is_not_utf8_is_refused():
    with pytest.raises(InputError, match=r"^--workdir must be a path in UTF-8; got '/data/ru\\udcf1'$"):
        open_directory(os.fsdecode(b"/data/ru\xf1"))


@pytest.mark.parametrize("is_directory", [False, True])
def test_report_that_fails_is_one_warning(tmp_path, capsys, is_directory):
    report = tmp_path / "report.html"
    if is_directory:
        report.mkdir()
    else:
        report.write_text("of an earlier evaluation")

    def write_report(path, outcome):
        path.read_bytes()
        raise ValueError("no [chart]\nof this")

    task = SimpleNamespace(write_report=write_report, show_accuracies=show_feature_accuracies)
    finish(Console(width=80), task, tmp_path, Outcome(SUMMARY, (), None))
    assert json.loads((tmp_path / "summary.json").read_text()) == SUMMARY
    assert report.is_dir() == is_directory
    assert report.exists() == is_directory  # what is there would be shown as this run's
    [warning] = [line for line in capsys.readouterr().out.splitlines() if "cannot be written" in line]
    assert warning.startswith("report.html cannot be written: IsADir" if is_directory else "report.html cannot be")
    assert is_directory or "ValueError: no [chart]; summary.json is complete, rerun the same command" in warning


@pytest.mark.slow
def test_run(quick_environment, tmp_path):
    folder, workdir = os.fsencode(tmp_path) + b"/na\xefve", tmp_path / "run"
    save_classes(folder)
    line = [
        *(sys.executable, "launch.py", "--config=configs/image_folder.py", f"--workdir={workdir}"),
        b"--config.data.manual_dir=" + folder,
        *("--config.data.image_size=8", "--config.model.name=resnet_tiny", "--config.model.stem=small"),
        *("--config.model.head_dims=(8, 8)", "--config.train.batch_size=8", "--config.train.epochs=1"),
        *("--config.train.precision=float32", "--config.evaluation.draws=1"),
        "--config.evaluation.labels_per_class=(1,)",
    ]
    for environment in (quick_environment, quick_environment | {"PYTHONIOENCODING": "ascii"}):
        result = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, timeout=600)
        assert result.returncode == 0, result.stderr
        assert b"cannot be written" not in result.stdout
    assert b"this run is complete" in result.stdout
    assert json.loads((workdir / "summary.json").read_text())["knn_accuracy"] is not None
    assert r"caf\xe9" in Page((workdir / "report.html").read_text("utf-8")).text
