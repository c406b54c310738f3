"""The task `locoprop` through launch.py: its files, what it survives, and what it refuses."""

import json

import numpy as np
import pytest

from configs import locoprop_fashion_mnist, locoprop_mnist
from tests.runs import Run, assert_same_end, final_state, launch, run_processes, steps_logged, steps_saved
from vicreg_jax.config import check_config
from vicreg_jax.locoprop.official import OPTIMIZERS
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.locoprop.build import build
from vicreg_jax.tasks.locoprop.config import locoprop_config
from vicreg_jax.tasks.registry import table_of
from vicreg_jax.training.metrics import read_metrics

CONFIG = "configs/locoprop_fashion_mnist.py"
SHORT = (
    "--config.data.name=digits",
    "--config.data.image_size=8",
    "--config.model.widths=(32,16)",
    "--config.model.code=8",
    "--config.optim.base_lr=1e-4",
    "--config.optim.warmup_epochs=1",
    "--config.optim.schedule_epochs=6",
    "--config.train.batch_size=128",  # an epoch has 11 steps
    "--config.train.epochs=5",
    "--config.checkpoint.every_steps=7",
    "--config.logging.every_steps=5",
    "--config.evaluation.batch_size=128",
    "--config.evaluation.draws=2",
    "--config.evaluation.labels_per_class=(5,)",
)
STEPS = 55
LAYERS = [f"Dense_{index}" for index in range(6)]


@pytest.fixture(scope="module")
def finished(undisturbed, quick_environment):
    return undisturbed(*SHORT, config=CONFIG, environment=quick_environment)


@pytest.mark.slow
def test_files_of_a_run(finished):
    workdir, printed = finished
    summary = json.loads((workdir / "summary.json").read_text())
    for name in ("method", "dataset", "steps", "epochs", "seconds", "images_per_second", "loss", "test_loss"):
        assert name in summary
    assert (summary["method"], summary["steps"]) == ("locoprop_m", STEPS)
    random = summary["baselines"]["random_init"]
    assert summary["loss"] < 0.8 * random["loss"]
    assert summary["test_loss"] < 0.8 * random["test_loss"]
    assert 0.7 < summary["knn_accuracy"] <= 1
    assert set(summary["baselines"]["raw_pixels"]) >= {"knn_accuracy", "linear_accuracy", "few_label_accuracy"}
    rows = {row["step"]: row for row in read_metrics(workdir / "metrics.jsonl")}
    assert list(rows) == sorted({*range(5, STEPS + 1, 5), *range(11, STEPS, 11)})
    assert all(f"update_norm/{name}" in row for row in rows.values() for name in LAYERS)
    # The first epoch trains at 0.
    assert rows[10]["learning_rate"] == 0
    assert rows[11]["train_loss"] == pytest.approx(random["loss"], rel=1e-5)
    assert rows[11]["update_norm/Dense_0"] == 0 < rows[15]["update_norm/Dense_0"]
    report = (workdir / "report.html").read_text()
    assert report.startswith("<!doctype html>")
    for text in ("Training loss by time", "Reconstruction, number 1", "Dense_3"):
        assert text in report
    assert "losses  Dense_0 tanh, Dense_1 tanh, Dense_2 identity" in printed


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["s", "adam"])
def test_other_arguments_learn_too(quick_environment, tmp_path, argument):
    rate = {"s": "1e-4", "adam": "1e-2"}[argument]
    result = launch(
        quick_environment, tmp_path / "run", *SHORT, f"--config.optim.base_lr={rate}", config=f"{CONFIG}:{argument}"
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["method"] == {"s": "locoprop_s", "adam": "adam"}[argument]
    assert summary["loss"] < 0.9 * summary["baselines"]["random_init"]["loss"]


@pytest.mark.slow
def test_a_kill_changes_nothing(finished, quick_environment, tmp_path):
    workdir, _ = finished
    with Run(quick_environment, tmp_path / "run", *SHORT, config=CONFIG) as run:
        assert run.reaches(lambda: 14 in steps_saved(tmp_path / "run"))
        run.kill()
    result = launch(quick_environment, tmp_path / "run", *SHORT, config=CONFIG)
    assert result.returncode == 0, result.stderr
    assert "resuming from step" in result.stdout
    assert_same_end(tmp_path / "run", workdir)


@pytest.mark.slow
def test_devices_learn_the_same(finished, quick_environment, tmp_path):
    workdir, _ = finished
    several = quick_environment | {"JAX_NUM_CPU_DEVICES": "4"}
    result = launch(several, tmp_path / "run", *SHORT, "--config.mesh.fsdp=2", config=CONFIG)
    assert result.returncode == 0, result.stderr
    _assert_near(tmp_path / "run", workdir)


@pytest.mark.slow
def test_processes_learn_the_same(finished, quick_environment, tmp_path):
    workdir, _ = finished
    with run_processes(quick_environment, tmp_path / "run", *SHORT, config=CONFIG) as runs:
        assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]
    _assert_near(tmp_path / "run", workdir)


def _assert_near(workdir, expected):
    assert steps_logged(workdir) == steps_logged(expected)
    found, wanted = final_state(workdir), final_state(expected)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_a_layer_that_is_not_finite_is_named(quick_environment, tmp_path):
    result = launch(quick_environment, tmp_path / "run", *SHORT, "--config.optim.base_lr=1e30", config=CONFIG)
    assert result.returncode == 1
    assert "update_norm/Dense_" in result.stderr
    assert "config.optim.base_lr" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("method.local_steps", 0, r"config\.method\.local_steps must be an integer of at least 1.*; got 0"),
        ("method.activation_rate", 0.0, r"config\.method\.activation_rate must be a number above 0.*; got 0\.0"),
        ("method.variant", "x", r"config\.method\.variant must be one of m, s.*; got 'x'"),
        (
            "method.name",
            "backpropagation",
            r"config\.method\.name must be chosen by .*; got 'backpropagation' with the fields of the other",
        ),
        ("method.name", "vicreg", r"config\.method\.name must be one of locoprop, backpropagation.*; got 'vicreg'"),
        ("model.name", "resnet50", r"config\.model\.name must be one of autoencoder.*; got 'resnet50'"),
        ("model.transfer", "gelu", r"config\.model\.transfer must be one of identity, tanh.*; got 'gelu'"),
        ("optim.name", "lars", r"config\.optim\.name must be one of sgd, momentum.*; got 'lars'"),
        ("optim.schedule_epochs", 99, r"config\.optim\.schedule_epochs must be above train\.epochs=.*; got 99"),
        ("optim.warmup_epochs", 100, r"config\.optim\.warmup_epochs must be below optim\.schedule_epochs=.*; got 100"),
        ("train.batch_size", 2000, r"config\.train\.batch_size must be .*; got 2000"),
        ("mesh.data", 3, r"config\.mesh\.data times fsdp must be .*; got data=3"),
    ],
)
def test_value_that_cannot_be_used(field, value, says, quick_environment, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", quick_environment["TFDS_DATA_DIR"])
    config = locoprop_config()
    config.data.image_size = 8
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=says) as error:
        build(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["m", "s", *OPTIMIZERS])
@pytest.mark.parametrize("configs", [locoprop_fashion_mnist, locoprop_mnist])
def test_configs(configs, method):
    config = configs.get_config(method)
    check_config(config, table_of(config))
    assert config.task == "locoprop"
    assert config.data.name in configs.__name__.removeprefix("configs.locoprop_")
    assert config.optim.name == ("rmsprop" if method in "ms" else method)


def test_unknown_argument():
    with pytest.raises(ValueError, match=r"^method must be one of m, s, sgd.*; got 'lars'"):
        locoprop_config("lars")
