"""The command line as a person uses it: real processes, the real default config made short."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import vicreg_jax
from vicreg_jax.methods import METHODS
from vicreg_jax.training.metrics import read_metrics

ROOT = Path(__file__).parent.parent
SHORT = (
    "--config.train.epochs=8",
    "--config.model.head_dims=(32, 32)",
    "--config.checkpoint.every_steps=7",  # an epoch has 11: checkpoints fall in mid-epoch
    "--config.logging.every_steps=10",
    "--config.evaluation.every_epochs=5",
    "--config.evaluation.draws=2",
)
STEPS = 88
TIMINGS = ("seconds", "images_per_second")


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Data sets are prepared, and programs compiled, once for all of these tests."""
    shared = tmp_path_factory.mktemp("shared")
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TFDS_DATA_DIR": str(shared / "data"),
        "JAX_COMPILATION_CACHE_DIR": str(shared / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def command(workdir, *arguments, config="configs/digits.py"):
    return [sys.executable, "launch.py", f"--config={config}", f"--workdir={workdir}", *arguments]


def launch(environment, workdir, *arguments, config="configs/digits.py"):
    return subprocess.run(
        command(workdir, *arguments, config=config),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def what_was_learned(workdir):
    """Everything in a run's files that must not depend on interruptions."""
    summary = json.loads((workdir / "summary.json").read_text())
    metrics = read_metrics(workdir / "metrics.jsonl")
    for row in (summary, *metrics):
        for name in TIMINGS:
            row.pop(name, None)
    return summary, metrics


@pytest.fixture(scope="session")
def finished(environment, tmp_path_factory):
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    result = launch(environment, workdir, *SHORT)
    assert result.returncode == 0, result.stderr
    return workdir, result


def test_files_of_a_run(finished):
    workdir, result = finished
    assert {"config.json", "metrics.jsonl", "checkpoints", "summary.json", "report.html"} <= {
        path.name for path in workdir.iterdir()
    }
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["method"] == "vicreg"
    assert summary["dataset"] == "digits"
    assert (summary["steps"], summary["epochs"]) == (STEPS, 8)
    assert summary["seconds"] > 0
    assert summary["images_per_second"] > 0
    for accuracies in (summary, summary["baselines"]["raw_pixels"], summary["baselines"]["random_init"]):
        assert 0.1 < accuracies["knn_accuracy"] <= 1
        assert 0.1 < accuracies["linear_accuracy"] <= 1
        assert list(accuracies["few_label_accuracy"]) == ["1", "5", "10"]
    # Published for this split: what scikit-learn's logistic regression and a NumPy kNN reach, see docs/evaluation.md.
    assert summary["baselines"]["raw_pixels"]["knn_accuracy"] == pytest.approx(0.986, abs=0.002)
    metrics = read_metrics(workdir / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [10, 20, 30, 40, 50, 55, 60, 70, 80, 88]
    for name in ("epoch", "loss", "invariance", "variance", "covariance", "learning_rate", "embedding_std"):
        assert all(row[name] is not None for row in metrics)
    assert all(1 <= row["effective_rank"] <= 32 for row in metrics)
    assert [row["step"] for row in metrics if "knn_accuracy" in row] == [55]
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["head_dims"] == [32, 32]
    assert "jax" in config["versions"]
    assert "raw pixels" in result.stdout
    assert "report.html" in result.stdout


def test_terms_add_up_to_the_loss(finished):
    for row in read_metrics(finished[0] / "metrics.jsonl"):
        total = 25 * row["invariance"] + 25 * row["variance"] + row["covariance"]
        assert row["loss"] == pytest.approx(total, rel=1e-5)


def test_finished_run_is_not_run_again(finished, environment):
    workdir, _ = finished
    before = (workdir / "summary.json").read_bytes()
    result = launch(environment, workdir, *SHORT, "--config.logging.every_steps=5")
    assert result.returncode == 0
    assert "complete" in result.stdout
    assert (workdir / "summary.json").read_bytes() == before


def test_finished_run_is_evaluated_anew_where_asked(finished, environment, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    result = launch(environment, workdir, *SHORT, "--config.evaluation.labels_per_class=(2,)")
    assert result.returncode == 0, result.stderr
    before, after = (json.loads((path / "summary.json").read_text()) for path in (finished[0], workdir))
    assert list(after["few_label_accuracy"]) == ["2"]
    assert (after["loss"], after["knn_accuracy"]) == (before["loss"], before["knn_accuracy"])
    assert (workdir / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()


def wait_for_checkpoint(workdir, process):
    """Waits until a checkpoint is complete: Orbax gives it its name, a number, when it is."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if any(path.name.isdecimal() for path in workdir.glob("checkpoints/*")):
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    pytest.fail("no checkpoint comes")


def test_run_that_was_asked_to_leave_ends_bit_for_bit_the_same(finished, environment, tmp_path):
    workdir = tmp_path / "run"
    started = subprocess.Popen(
        command(workdir, *SHORT), env=environment, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    with started as process:
        wait_for_checkpoint(workdir, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    assert not (workdir / "summary.json").exists()
    result = launch(environment, workdir, *SHORT)
    assert result.returncode == 0, result.stderr
    resumed = int(result.stdout.split("going on from the checkpoint of step ")[1].split()[0])
    assert 0 < resumed < STEPS
    assert what_was_learned(workdir) == what_was_learned(finished[0])


def final_state(workdir):
    """Every array of the last checkpoint, by path."""
    import orbax.checkpoint as ocp

    state = ocp.PyTreeCheckpointer().restore(workdir / "checkpoints" / str(max(steps_saved(workdir))) / "state")
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def steps_saved(workdir):
    return [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()]


@pytest.mark.filterwarnings("ignore:Sharding info not provided")  # of Orbax: any will do here
@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[] if name == "moco" else [pytest.mark.slow]) for name in METHODS]
)
def test_killed_run_of_every_method_ends_in_the_same_state(environment, tmp_path, method):
    """Every part of the state, bit for bit: target networks and MoCo's queue too."""
    config = f"configs/digits.py:{method}"
    arguments = (
        "--config.train.epochs=4",
        "--config.checkpoint.every_steps=7",
        "--config.logging.every_steps=10",
        "--config.evaluation.every_epochs=0",
        "--config.evaluation.draws=2",
    )
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert launch(environment, undisturbed, *arguments, config=config).returncode == 0
    line = command(killed, *arguments, config=config)
    with subprocess.Popen(
        line, env=environment, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        wait_for_checkpoint(killed, process)
        process.kill()
    assert max(steps_saved(killed)) < 44
    result = launch(environment, killed, *arguments, config=config)
    assert result.returncode == 0, result.stderr
    assert "going on from the checkpoint of step" in result.stdout
    assert what_was_learned(killed) == what_was_learned(undisturbed)
    expected, found = final_state(undisturbed), final_state(killed)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    carried = {name.split("'")[3] for name in expected if name.startswith("['carried']")}
    target = {"target_params", "target_batch_stats"}
    assert carried == {"moco": target | {"queue", "queue_position"}, "byol": target}.get(method, set())


def test_not_finite_loss_stops_and_keeps_the_last_good_checkpoint(environment, tmp_path):
    # The warm-up begins at 0: the first update is none, the second takes the parameters out of all bounds.
    arguments = (*SHORT, "--config.optim.base_lr=1e25")
    result = launch(environment, tmp_path, *arguments, "--config.checkpoint.every_steps=1")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: step ")
    assert " is nan; stopped." in result.stderr or " is inf; stopped." in result.stderr
    assert "The checkpoint of step 1 is kept." in result.stderr
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    encoder = vicreg_jax.load_encoder(tmp_path)
    assert all(abs(leaf).max() < 100 for leaf in jax.tree.leaves(encoder.variables))


def test_encoder_of_a_run_and_of_its_export(finished, environment):
    workdir, _ = finished
    encoder = vicreg_jax.load_encoder(workdir)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    features = encoder(images)
    assert features.shape == (5, encoder.feature_dim)
    assert features.dtype == np.float32
    # The same through Flax, by hand: pixels from 0 to 1, then mean and standard deviation 0.5.
    inputs = (images / np.float32(255) - 0.5) / 0.5
    np.testing.assert_allclose(encoder.apply(encoder.variables, inputs), features, rtol=1e-4, atol=1e-5)
    # Of any number, an image's features do not depend on the others.
    for count in (0, 1, 3):
        np.testing.assert_allclose(encoder(images[:count]), features[:count], rtol=1e-4, atol=1e-5)
    assert encoder(np.zeros((2, 20, 12, 1), np.uint8)).shape == (2, encoder.feature_dim)

    result = launch(environment, workdir, *SHORT, "--config.task=export")
    assert result.returncode == 0, result.stderr
    exported = vicreg_jax.load_encoder(workdir / "export")
    np.testing.assert_array_equal(exported(images), features)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((1, 8, 8, 1), np.float32), TypeError, "images: got dtype float32, takes uint8"),
        (np.zeros((8, 8, 1), np.uint8), ValueError, r"images: got shape \(8, 8, 1\), takes \[batch"),
        (np.zeros((1, 8, 8, 3), np.uint8), ValueError, r"takes .* with 1 channel"),
        (np.zeros((1, 0, 8, 1), np.uint8), ValueError, "at least one pixel"),
    ],
)
def test_encoder_says_what_it_takes(finished, images, error, message):
    with pytest.raises(error, match=message):
        vicreg_jax.load_encoder(finished[0])(images)


def test_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(vicreg_jax.errors.InputError, match=r"there is no config\.json in it"):
        vicreg_jax.load_encoder(tmp_path)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_processes_learn_what_one_does(finished, environment, tmp_path):
    workdir = tmp_path / "run"
    port = free_port()
    processes = [
        subprocess.Popen(
            command(
                workdir, *SHORT, f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2", f"--process_id={index}"
            ),
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    one, one_metrics = what_was_learned(finished[0])
    two, two_metrics = what_was_learned(workdir)
    assert [row["step"] for row in two_metrics] == [row["step"] for row in one_metrics]
    # Sums over two devices are added in another order; what comes of that grows with the steps.
    assert two_metrics[0]["loss"] == pytest.approx(one_metrics[0]["loss"], rel=1e-4)
    assert two["loss"] == pytest.approx(one["loss"], rel=0.02)
    assert two["knn_accuracy"] == pytest.approx(one["knn_accuracy"], abs=0.05)
    assert "devices 2 x" in outputs[0][0]
    assert "devices" not in outputs[1][0]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder as people have them: colour, sizes of all kinds, no labels, one file cut short."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for index in range(60):
        height, width = random.integers(12, 30, 2)
        picture = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"photo_{index}.png")
    broken = folder / "broken.png"
    broken.write_bytes((folder / "photo_0.png").read_bytes()[:200])
    return folder


@pytest.mark.parametrize("placement", ["host", pytest.param("device", marks=pytest.mark.slow)])
def test_unlabelled_folder_with_a_truncated_image(environment, tmp_path, photos, placement):
    result = launch(
        environment,
        tmp_path,
        f"--config.data.manual_dir={photos}",
        f"--config.data.placement={placement}",
        "--config.data.image_size=16",
        "--config.model.name=resnet_tiny",
        "--config.model.head_dims=(16, 16)",
        "--config.train.batch_size=16",
        "--config.train.epochs=2",
        "--config.train.precision=float32",
        config="configs/image_folder.py",
    )
    assert result.returncode == 0, result.stderr
    assert "broken.png" in result.stderr + result.stdout
    assert "no labels" in result.stdout
    assert "accuracies: none" in result.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["knn_accuracy"] is None
    assert summary["unreadable_images"] == 1
    assert np.isfinite(summary["loss"])
    assert "probe_accuracy" not in read_metrics(tmp_path / "metrics.jsonl")[-1]
    encoder = vicreg_jax.load_encoder(tmp_path)
    assert encoder(np.zeros((2, 20, 31, 3), np.uint8)).shape == (2, encoder.feature_dim)
