"""The task `smt` through launch.py: its files, what it survives, and what it refuses."""

import json
import signal

import numpy as np
import pytest

from configs.smt_digits import get_config
from tests.runs import Run, assert_same_end, final_state, launch, run_processes, steps_logged, steps_saved
from vicreg_jax import load_encoder
from vicreg_jax.data import load_dataset
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.smt import load_smt, transform
from vicreg_jax.tasks.smt.build import build

CONFIG = "configs/smt_digits.py"
SHORT = (
    "--config.method.atoms=64",
    "--config.method.embedding_dim=16",
    "--config.train.batch_size=64",  # 23 chunks a pass
    "--config.checkpoint.every_steps=7",
    "--config.logging.every_steps=5",
    "--config.evaluation.draws=2",
    "--config.evaluation.labels_per_class=(5,)",
)
CHUNKS = 23


@pytest.fixture(scope="module")
def finished(undisturbed, quick_environment):
    return undisturbed(*SHORT, config=CONFIG, environment=quick_environment)


@pytest.mark.slow
def test_files_of_a_run(finished):
    workdir, printed = finished
    summary = json.loads((workdir / "summary.json").read_text())
    for name in ("method", "dataset", "steps", "epochs", "seconds", "images_per_second", "loss"):
        assert name in summary
    assert summary["steps"] == 2 * CHUNKS
    assert summary["method"] == "smt"
    assert 0.9 < summary["knn_accuracy"] <= 1
    assert 0.9 < summary["linear_accuracy"] <= 1
    assert summary["baselines"].keys() == {"raw_pixels", "random_projection"}
    for baseline in summary["baselines"].values():
        assert set(baseline) >= {"knn_accuracy", "linear_accuracy", "few_label_accuracy"}
    assert 0 < summary["active_atoms"] < 64
    assert steps_logged(workdir) == [*range(5, 2 * CHUNKS, 5), 2 * CHUNKS]
    assert steps_saved(workdir)[-1] == 2 * CHUNKS
    assert (workdir / "report.html").read_text().startswith("<!doctype html>")
    assert "projection" in printed
    assert f"step {2 * CHUNKS}/{2 * CHUNKS}" in printed


@pytest.mark.slow
def test_loss_is_the_sum_of_the_eigenvalues(finished):
    workdir, _ = finished
    summary = json.loads((workdir / "summary.json").read_text())
    smt = load_smt(workdir)
    np.testing.assert_allclose(summary["loss"], np.sum(smt.eigenvalues), rtol=1e-5)
    state = final_state(workdir)
    variance, difference = (
        state[f"['{name}']['high']"].astype(np.int64) * 2**24 + state[f"['{name}']['low']"]
        for name in ("variance", "difference")
    )
    P = np.asarray(smt.projection, np.float64)
    np.testing.assert_allclose(P @ variance @ P.T, np.eye(len(P)), atol=1e-4)
    np.testing.assert_allclose(np.trace(P @ difference @ P.T), summary["loss"], rtol=1e-4)


@pytest.mark.slow
def test_the_transform_of_a_run_is_loaded_in_a_line(finished, quick_environment, monkeypatch):
    workdir, _ = finished
    monkeypatch.setenv("TFDS_DATA_DIR", quick_environment["TFDS_DATA_DIR"])
    data = load_dataset("digits", "test", image_size=8)
    smt = load_smt(workdir)
    features = transform(smt, np.stack([data[index]["image"] for index in range(10)]))
    assert features.shape == (10, 25 * 16)
    assert np.isfinite(features).all()
    with pytest.raises(InputError, match=r"vicreg_jax\.smt\.load_smt"):
        load_encoder(workdir)
    with pytest.raises(ValueError, match=r"^directory must contain smt\.npz"):
        load_smt(workdir / "checkpoints")


@pytest.mark.slow
def test_a_kill_in_either_pass_changes_nothing(finished, quick_environment, tmp_path):
    workdir, _ = finished
    for step in (7, 28):  # in the first pass, and in the second
        with Run(quick_environment, tmp_path / "run", *SHORT, config=CONFIG) as run:
            assert run.reaches(lambda step=step: step in steps_saved(tmp_path / "run"))
            run.kill()
    result = launch(quick_environment, tmp_path / "run", *SHORT, config=CONFIG)
    assert result.returncode == 0, result.stderr
    assert "resuming from step" in result.stdout
    assert_same_end(tmp_path / "run", workdir)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint(finished, quick_environment, tmp_path, number):
    workdir, _ = finished
    with Run(quick_environment, tmp_path / "run", *SHORT, config=CONFIG) as run:
        assert run.reaches(lambda: 7 in steps_saved(tmp_path / "run"))
        run.process.send_signal(number)
        assert run.wait() == {signal.SIGTERM: 75, signal.SIGINT: 130}[number]
        assert "preempted: saved step" in run.said
    assert launch(quick_environment, tmp_path / "run", *SHORT, config=CONFIG).returncode == 0
    assert_same_end(tmp_path / "run", workdir)


@pytest.mark.slow
def test_devices_and_processes_make_the_same_transform(finished, quick_environment, tmp_path):
    workdir, _ = finished
    expected = final_state(workdir)
    several = quick_environment | {"JAX_NUM_CPU_DEVICES": "4"}
    arguments = (*SHORT, "--config.mesh.fsdp=2")
    alone = launch(several, tmp_path / "devices", *arguments, config=CONFIG)
    assert alone.returncode == 0, alone.stderr
    with run_processes(several, tmp_path / "processes", *arguments, config=CONFIG) as runs:
        assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]
    for name in ("devices", "processes"):
        found = final_state(tmp_path / name)
        for array in expected:
            # What is solved for is the same up to rounding; what was counted, to the bit.
            if array not in ("['projection']", "['eigenvalues']"):
                np.testing.assert_array_equal(found[array], expected[array], err_msg=f"{name}: {array}")


@pytest.mark.slow
def test_a_finished_run_says_so_and_is_evaluated_anew_where_asked(quick_environment, finished, tmp_path):
    workdir, _ = finished
    result = launch(quick_environment, workdir, *SHORT, config=CONFIG)
    assert result.returncode == 0
    assert "this run is complete" in result.stdout


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("method.patch_size", 9, r"config\.method\.patch_size must be at most 8.*; got 9"),
        ("method.threshold", 1.0, r"config\.method\.threshold must be .*; got 1\.0"),
        ("method.embedding_dim", 257, r"config\.method\.embedding_dim must be at most 256.*; got 257"),
        ("method.code", "sparse", r"config\.method\.code must be one of.*; got 'sparse'"),
        ("method.grayscale", True, r"config\.method\.grayscale must be False.*; got True"),
        ("method.pool_cells", 7, r"config\.method\.pool_cells must be .*; got 7"),
        ("method.name", "vicreg", r"config\.method\.name must be 'smt'.*; got 'vicreg'"),
        ("train.batch_size", 0, r"config\.train\.batch_size must be .*; got 0"),
        ("data.train_split", "train[:1]", r"config\.method\.atoms must be at most.*; got 256"),
        ("data.name", "digitz", r"config\.data\.name.*digitz"),
        ("mesh.data", 3, r"config\.mesh\.data times fsdp must be .*; got data=3"),
    ],
)
def test_value_that_cannot_be_used(field, value, says, quick_environment, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", quick_environment["TFDS_DATA_DIR"])
    config = get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=says) as error:
        build(config)
    assert "\n" not in str(error.value)
