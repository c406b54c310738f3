"""`config.task=evaluate`: an encoder's features on several datasets, each evaluated once."""

import json
import os
import re

import pytest

from tests.report.page import Page
from tests.runs import launch, run_processes
from tests.small_encoder import make_encoder, save_photos, small_config
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.workdir import read_json
from vicreg_jax.tasks.evaluate import task
from vicreg_jax.tasks.evaluate.task import evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export, and photos of two classes."""
    folder = tmp_path_factory.mktemp("evaluate")
    make_encoder().export(folder / "export")
    save_photos(folder / "photos")
    return folder


@pytest.fixture
def config(folder):
    config = small_config()
    config.task = "evaluate"
    config.data.update({"name": "digits", "train_split": "train[:100]", "test_split": "test[:40]"})
    config.evaluate.encoder = str(folder / "export")
    config.evaluation.update({"transfer": (f"image_folder:{folder}/photos",), "labels_per_class": (1,), "draws": 2})
    config.mesh.data = 8
    return config


def test_datasets_are_evaluated_once(config, folder, tmp_path, capsys, monkeypatch):
    photos = f"image_folder:{folder}/photos"
    evaluate(config, tmp_path)
    assert {"config.json", "datasets.json", "summary.json", "report.html"} <= set(os.listdir(tmp_path))
    summary = read_json(tmp_path / "summary.json")
    assert (summary["method"], summary["model"], summary["feature_dim"]) == ("vicreg", "resnet_tiny", 16)
    assert list(summary["datasets"]) == ["digits", photos]
    sizes = [[row[name] for name in ("train_images", "test_images", "classes")] for row in summary["datasets"].values()]
    assert sizes == [[100, 40, 10], [4, 2, 2]]
    for row in summary["datasets"].values():
        assert list(row["baselines"]) == ["raw_pixels", "random_init"]
        for accuracies in (row, *row["baselines"].values()):
            assert 0 <= accuracies["knn_accuracy"] <= 1
            assert 0 <= accuracies["linear_accuracy"] <= 1
            assert list(accuracies["few_label_accuracy"]) == ["1"]
        assert row["label_free"]["layer"] == "features"
        assert 1 <= row["label_free"]["lidar"] < 100
    assert summary["datasets"]["digits"]["linear_accuracy"] > 0.3
    printed = capsys.readouterr().out
    assert "digits: accuracy on the test split" in printed
    assert "random init" in printed
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.all("tr")) == 3
    for piece in ("digits", photos, "100 and 40 images, 10 classes", "raw pixels", "LiDAR"):
        assert piece in page.text

    # A rerun with one more dataset computes only that one, and one with other settings computes all.
    evaluated = []
    monkeypatch.setattr(task, "transfer_results", lambda evaluation, *_: evaluated.append(evaluation) or {})
    monkeypatch.setattr(task.LabelFree, "metrics", lambda *_: None)
    monkeypatch.setattr(task, "show_datasets", lambda *_: None)
    monkeypatch.setattr(task, "write_evaluation_report", lambda *_: None)
    evaluate(config, tmp_path)
    assert evaluated == []
    assert read_json(tmp_path / "summary.json") == summary
    config.evaluation.transfer += (f"image_folder:{folder}/photos/train",)
    evaluate(config, tmp_path)
    assert [len(evaluation.train_data) for evaluation in evaluated] == [3]
    config.evaluation.draws = 3
    evaluate(config, tmp_path)
    assert len(evaluated) == 1 + 3
