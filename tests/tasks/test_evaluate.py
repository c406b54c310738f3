"""`config.task=evaluate`: an encoder's features on several datasets, each evaluated once."""

import json
import os
import re

import numpy as np
import pytest

from tests.report.page import Page
from tests.runs import SHORT, launch, run_processes
from tests.small_encoder import make_encoder, save_photos, small_config
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.workdir import read_json
from vicreg_jax.tasks import features
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
    config.evaluation.update({"transfer": (f"image_folder:{folder}/photos",), "batch_size": 8})
    config.mesh.data = 8
    return config


@pytest.fixture
def quick(monkeypatch):
    """Classifiers that need no compilation; a list of the features that they got."""
    seen = []

    def nearest_class_mean(train, test, *_, num_classes, **__):
        seen.append((train, test))
        means = np.stack([train.features[train.labels == label].mean(axis=0) for label in range(num_classes)])
        found = np.argmin(((test.features[:, None] - means) ** 2).sum(axis=2), axis=1)
        accuracy = float(np.mean(found == test.labels))
        few = {"few_label_accuracy": {"1": accuracy}, "few_label_std": {"1": 0.0}}
        return {"knn_accuracy": accuracy, "linear_accuracy": accuracy, **few}

    monkeypatch.setattr(features, "evaluate_features", nearest_class_mean)
    monkeypatch.setattr(task.LabelFree, "metrics", lambda *_: {"rankme": 3.5, "lidar": 2.5, "alpha_req": None})
    return seen


@pytest.mark.slow
def test_datasets_are_evaluated_once(config, folder, tmp_path, capsys, quick):
    photos = f"image_folder:{folder}/photos"
    evaluate(config, tmp_path)
    assert {"config.json", "datasets.json", "summary.json", "report.html"} <= set(os.listdir(tmp_path))
    summary = read_json(tmp_path / "summary.json")
    assert (summary["encoder"], summary["model"], summary["feature_dim"]) == (f"{folder}/export", "resnet_tiny", 16)
    digits, pets = (summary["datasets"][name] for name in ("digits", photos))
    assert [[row[f"{split}_images"] for split in ("train", "test")] for row in (digits, pets)] == [[100, 40], [4, 2]]
    assert (digits["classes"], pets["classes"]) == (10, 2)
    for row in (digits, pets):
        assert list(row["baselines"]) == ["raw_pixels", "random_init"]
        assert row["label_free"]["rankme"] == 3.5
    # Of each dataset: the encoder, raw pixels, the random network. Digits get the encoder's three channels.
    assert [train.features.shape for train, _ in quick] == [
        (100, 16),
        (100, 768),
        (100, 16),
        (4, 16),
        (4, 768),
        (4, 16),
    ]
    encoder = make_encoder()
    expected = encoder(encoder.open_dataset("digits", "train[:100]"))
    np.testing.assert_allclose(quick[0][0].features, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(quick[2][0].features - expected).max() > 0.1
    assert digits["baselines"]["raw_pixels"]["knn_accuracy"] > 0.6
    printed = capsys.readouterr().out
    for piece in ("digits: accuracy on the test split", "image_folder:", "encoder", "random init", "report.html"):
        assert piece in " ".join(printed.split()), piece
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.all("tr")) == 3
    for piece in ("digits", photos, "100 and 40 images, 10 classes", "pixels", "LiDAR", "3.5"):
        assert piece in page.text.replace("\n", ""), piece


def test_finished_datasets_are_not_evaluated_again(config, folder, tmp_path, monkeypatch, capsys):
    evaluated = []

    class Network:
        def __init__(self, *_):
            pass

        def evaluate(self, evaluation):
            evaluated.append(len(evaluation.train_data))
            return {"classes": None, "train_images": 1, "test_images": 1, "knn_accuracy": None}

    monkeypatch.setattr(task, "_Network", Network)
    evaluate(config, tmp_path)
    assert evaluated == [100, 4]
    before = (tmp_path / "summary.json").read_bytes()
    monkeypatch.setattr(task, "_Network", None)
    evaluate(config, tmp_path)
    assert capsys.readouterr().out.count("evaluated before") == 2
    assert (tmp_path / "summary.json").read_bytes() == before
    # One more dataset is the only one to evaluate; with other settings all are.
    monkeypatch.setattr(task, "_Network", Network)
    config.evaluation.transfer += (f"image_folder:{folder}/photos/train",)
    evaluate(config, tmp_path)
    config.evaluation.draws = 3
    evaluate(config, tmp_path)
    assert evaluated == [100, 4, 3, 100, 4, 3]
    assert list(read_json(tmp_path / "summary.json")["datasets"]) == ["digits", *config.evaluation.transfer]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("evaluate.encoder", None, "config.evaluate.encoder must be a run, an export or a file of weights; got N"),
        (
            "evaluate.encoder",
            "{}/nothing",
            "config.evaluate.encoder must be a run, an export or a file of weights; got",
        ),
        ("evaluation.transfer", ("digits",), "config.evaluation.transfer must be other datasets than 'digits', each"),
        ("evaluation.transfer", ("",), "config.evaluation.transfer must hold entries NAME or NAME:PATH; got ''"),
        ("evaluation.transfer", ("image_folder:{}/no",), "config.evaluation.transfer must be a folder; got '"),
        ("evaluation.transfer", ("image_folder",), "config.evaluation.transfer must be the folder of images when name"),
        ("evaluation.transfer", (3,), "config.evaluation.transfer must be strings, as a tuple; got (3,)"),
        ("data.test_split", "train[:5]", "config.data.test_split must share no image with data.train_split="),
        ("mesh.data", 3, "config.mesh.data times fsdp must be the number of devices"),
    ],
)
def test_bad_input_is_one_line(config, folder, tmp_path, field, value, says):
    if isinstance(value, str):
        value = value.format(folder)
    if isinstance(value, tuple):
        value = tuple(each.format(folder) if isinstance(each, str) else each for each in value)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=f"^{re.escape(says)}") as error:
        evaluate(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not {"config.json", "summary.json"} & {path.name for path in tmp_path.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_command_line(finished, environment, folder, tmp_path, processes):
    """A run on its own dataset has the accuracies of its own summary, from two processes too."""
    workdir, photos = tmp_path / "evaluation", f"image_folder:{folder}/photos"
    arguments = (
        "--config.task=evaluate",
        f"--config.evaluate.encoder={finished[0]}",
        f'--config.evaluation.transfer=("{photos}",)',
        "--config.evaluation.label_free_images=32",
    )
    with run_processes(environment, workdir, *SHORT, *arguments, count=processes) as runs:
        assert [run.wait() for run in runs] == [0] * processes, [run.said for run in runs]
    run, summary = (json.loads((path / "summary.json").read_text()) for path in (finished[0], workdir))
    found = summary["datasets"]["digits"]
    for ours, theirs in ((found, run), (found["baselines"]["random_init"], run["baselines"]["random_init"])):
        for name in ("knn_accuracy", "linear_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], abs=0 if processes == 1 else 0.01)
    assert list(summary["datasets"]) == ["digits", photos]
    assert found["label_free"]["layer"] == "features"
    again = launch(environment, workdir, *SHORT, *arguments)
    assert again.stdout.count("evaluated before") == 2, again.stderr
    into_the_run = launch(environment, finished[0], *SHORT, *arguments)
    assert into_the_run.returncode == 2
    assert "task was 'pretrain' and is 'evaluate'" in into_the_run.stderr
