"""The tasks `finetune` and `linear` from start to end: the files of a run, and what it survives."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest

import vicreg_jax
from configs import finetune, linear
from tests.report.page import Page
from tests.runs import SHORT, Run, assert_same_end, launch, run_command, run_processes, steps_saved
from vicreg_jax.tasks.run import run
from vicreg_jax.tasks.supervised.finetune import Finetune
from vicreg_jax.tasks.supervised.linear import Linear
from vicreg_jax.tasks.task import Site
from vicreg_jax.training.metrics import read_metrics

SMALL = {"model.width": 1.0, "logging.every_steps": 5}  # the width of tests.runs.SHORT
TASKS = ("finetune", "linear")
BRIEF = (
    "--config.model.width=0.5",
    "--config.train.batch_size=48",
    "--config.checkpoint.every_steps=7",
    "--config.logging.every_steps=1",
    "--config.optim.warmup_epochs=1",
)
# A calm learning rate: rounding must not grow.
OF_TASK = {
    "finetune": (
        "--config.finetune.labels=10%",  # an epoch has 2 steps
        "--config.optim.base_lr=0.01",
        "--config.finetune.from_scratch_lr=0.01",
        "--config.train.epochs=10",
        "--config.evaluation.every_epochs=6",
    ),
    "linear": ("--config.train.epochs=1", "--config.evaluation.every_epochs=1"),
}


def on_one_device(task_type):
    class OnOneDevice(task_type):
        @classmethod
        def from_config(cls, config):
            return super().from_config(config, Site(devices=jax.devices()[:1]))

    return OnOneDevice


@pytest.fixture(scope="module")
def tuned(finished, tmp_path_factory):
    """A fine-tuning run from the weights of a pretraining run."""
    config, workdir = finetune.get_config("digits"), tmp_path_factory.mktemp("tuned") / "run"
    changes = {"model.init_from": str(finished[0]), "train.batch_size": 48, "train.epochs": 12}
    config.update_from_flattened_dict(SMALL | changes)
    run(on_one_device(Finetune), config, workdir)
    return workdir


def test_pretraining_beats_random_initialization(undisturbed, environment, tmp_path):
    """Five labels per class, and the same batches for both networks, after 20 of the config's 90 epochs."""
    pretrained, _ = undisturbed(
        *SHORT, "--config.train.epochs=20", "--config.evaluation.every_epochs=0", "--config.model.head_dims=(128, 128)"
    )
    arguments = (f"--config.model.init_from={pretrained}", "--config.model.width=1.0")
    result = launch(environment, tmp_path, *arguments, config="configs/finetune.py:digits")
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["train_labels"] == 50
    assert summary["accuracy"] > summary["baselines"]["from_scratch"]["accuracy"] + 0.05


@pytest.mark.slow
def test_files_of_fine_tuning(tuned, finished):
    summary = json.loads((tuned / "summary.json").read_text())
    assert (summary["method"], summary["dataset"], summary["steps"], summary["train_labels"]) == (
        "finetune",
        "digits",
        12,
        50,
    )
    assert summary["accuracy"] < summary["top5_accuracy"] <= 1
    config = json.loads((tuned / "config.json").read_text())
    assert summary["init_from"] == config["model"]["init_digest"]
    assert len(summary["init_from"]) == 64
    rows = read_metrics(tuned / "metrics.jsonl")
    assert [row["step"] for row in rows] == [5, 10, 12]
    for name in ("loss", "from_scratch_loss", "train_accuracy", "from_scratch_train_accuracy", "head_learning_rate"):
        assert all(np.isfinite(row[name]) for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]
    text = Page((tuned / "report.html").read_text("utf-8")).text
    assert "Accuracy with 50 labels: " in text
    assert "fine-tuned" in text
    assert "from scratch" in text
    before, after = (vicreg_jax.load_encoder(path) for path in (finished[0], tuned))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    assert after(images).shape == before(images).shape
    assert not np.allclose(after(images), before(images))


@pytest.mark.slow
def test_files_of_a_linear_evaluation(tuned, tmp_path, capsys):
    config = linear.get_config("digits")
    changes = {"model.init_from": str(tuned), "train.batch_size": 128, "train.epochs": 1}
    config.update_from_flattened_dict(SMALL | changes | {"linear.baselines": False})
    run(on_one_device(Linear), config, tmp_path / "run")
    assert "weights of the backbone: SHA-256" in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["method"], summary["steps"], summary["train_labels"], summary["validation_labels"]) == (
        "linear",
        10,
        1293,
        144,
    )
    assert summary["learning_rate"] in config.linear.learning_rates
    assert summary["accuracy"] > 0.5
    assert summary["baselines"] == {}
    assert "Each learning rate was chosen on 144 held-out" in Page((tmp_path / "run" / "report.html").read_text()).text
    before, after = (vicreg_jax.load_encoder(path) for path in (tuned, tmp_path / "run"))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(after(images), before(images))


def launched(task):
    return (*BRIEF, *OF_TASK[task]), {"config": f"configs/{task}.py:digits"}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_kill_changes_nothing(undisturbed, finished, environment, tmp_path, task):
    arguments, options = launched(task)
    weights = tmp_path / "weights"  # a resumed run does without them
    vicreg_jax.load_encoder(finished[0]).export(weights)
    arguments = (*arguments, "--config.model.width=1.0", f"--config.model.init_from={weights}")
    expected, _ = undisturbed(*arguments, **options)
    with Run(environment, tmp_path / "run", *arguments, **options) as run:
        assert run.reaches(lambda: 7 in steps_saved(tmp_path / "run"))
        run.kill()
    shutil.rmtree(weights)
    result = launch(environment, tmp_path / "run", *arguments, **options)
    assert result.returncode == 0, result.stderr
    assert "resuming from step" in result.stdout
    assert_same_end(tmp_path / "run", expected)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["init_from"] is not None


def losses(workdir):
    return np.array([[value for name, value in row.items() if "loss" in name] for row in metrics_of(workdir)])


def metrics_of(workdir):
    return read_metrics(workdir / "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("devices", "fsdp"), [(2, 1), (4, 2), (8, 1)])
def test_devices_learn_the_same(undisturbed, environment, tmp_path, task, devices, fsdp):
    arguments, options = launched(task)
    expected, _ = undisturbed(*arguments, **options)
    several = environment | {"JAX_NUM_CPU_DEVICES": str(devices)}
    result = launch(several, tmp_path, *arguments, f"--config.mesh.fsdp={fsdp}", **options)
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(losses(tmp_path), losses(expected), rtol=2e-4)
    found, wanted = (json.loads((path / "summary.json").read_text()) for path in (tmp_path, expected))
    assert found["accuracy"] == pytest.approx(wanted["accuracy"], abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_processes_learn_the_same(undisturbed, environment, tmp_path, task):
    arguments, options = launched(task)
    expected, _ = undisturbed(*arguments, **options)
    with run_processes(environment, tmp_path / "run", *arguments, **options) as runs:
        assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(expected), rtol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_dry_run(environment, task):
    line = [sys.executable, "launch.py", f"--config=configs/{task}.py:digits", "--dry_run=cpu:8", *BRIEF]
    result = run_command(environment, line)
    assert result.returncode == 0, result.stderr
    for word in ("train step", "accuracy", "all-reduce"):
        assert word in result.stdout
