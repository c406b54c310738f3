"""The command line as a person uses it: real processes, the real default config made short."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import vicreg_jax
from tests.data.files import write_idx
from tests.runs import SHORT, STEPS, launch, run_processes
from vicreg_jax.training.metrics import read_metrics


def test_files_of_a_run(finished):
    workdir, printed = finished
    assert {"config.json", "metrics.jsonl", "checkpoints", "summary.json", "report.html"} <= {
        path.name for path in workdir.iterdir()
    }
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["method"] == "vicreg"
    assert summary["dataset"] == "digits"
    assert (summary["steps"], summary["epochs"]) == (STEPS, 4)
    assert summary["shared_images"] == 0
    assert summary["seconds"] > 0
    assert summary["images_per_second"] > 0
    for accuracies in (summary, summary["baselines"]["raw_pixels"], summary["baselines"]["random_init"]):
        assert 0.1 < accuracies["knn_accuracy"] <= 1
        assert 0.1 < accuracies["linear_accuracy"] <= 1
        assert list(accuracies["few_label_accuracy"]) == ["1", "5", "10"]
    # Published for this split: what scikit-learn's logistic regression and a NumPy kNN reach, see the guide
    # to evaluation.
    assert summary["baselines"]["raw_pixels"]["knn_accuracy"] == pytest.approx(0.986, abs=0.002)
    metrics = read_metrics(workdir / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [10, 20, 30, 33, 40, 44]
    for name in ("epoch", "loss", "invariance", "variance", "covariance", "learning_rate", "embedding_std"):
        assert all(row[name] is not None for row in metrics)
    assert all(1 <= row["effective_rank"] <= 32 for row in metrics)
    assert [row["step"] for row in metrics if "knn_accuracy" in row] == [33]
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["head_dims"] == [32, 32]
    assert "jax" in config["versions"]
    assert "raw pixels" in printed
    assert "report.html" in printed


def test_terms_add_up_to_the_loss(finished):
    for row in read_metrics(finished[0] / "metrics.jsonl"):
        total = 25 * row["invariance"] + 25 * row["variance"] + row["covariance"]
        assert row["loss"] == pytest.approx(total, rel=1e-5)


@pytest.fixture
def copied(finished, tmp_path):
    """The run's directory, to be written to."""
    return shutil.copytree(finished[0], tmp_path / "run")


def test_finished_run_is_not_run_again(copied, environment):
    before = (copied / "summary.json").read_bytes()
    result = launch(environment, copied, *SHORT, "--config.logging.every_steps=5")
    assert result.returncode == 0
    assert "complete" in result.stdout
    assert (copied / "summary.json").read_bytes() == before


@pytest.mark.slow
def test_finished_run_is_evaluated_anew_where_asked(finished, copied, environment):
    result = launch(environment, copied, *SHORT, "--config.evaluation.labels_per_class=(2,)")
    assert result.returncode == 0, result.stderr
    before, after = (json.loads((path / "summary.json").read_text()) for path in (finished[0], copied))
    assert list(after["few_label_accuracy"]) == ["2"]
    assert (after["loss"], after["knn_accuracy"]) == (before["loss"], before["knn_accuracy"])
    assert (copied / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_not_finite_loss_stops_and_keeps_the_last_good_checkpoint(environment, tmp_path):
    # The warm-up begins at 0: the first update is none, the second takes the parameters out of all bounds.
    arguments = (*SHORT, "--config.optim.base_lr=1e25")
    result = launch(environment, tmp_path, *arguments, "--config.checkpoint.every_steps=1")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: step ")
    assert re.search(r" is (nan|inf); stopped; the checkpoint of step 1 is kept\. ", result.stderr)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    encoder = vicreg_jax.load_encoder(tmp_path)
    assert all(abs(leaf).max() < 100 for leaf in jax.tree.leaves(encoder.variables))


def test_encoder_of_a_run_and_of_its_export(copied, environment):
    encoder = vicreg_jax.load_encoder(copied)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    features = encoder(images)
    assert features.shape == (5, encoder.feature_dim)
    assert features.dtype == np.float32
    # The same through Flax, by hand: pixels from 0 to 1, then mean and standard deviation 0.5.
    inputs = (images / np.float32(255) - 0.5) / 0.5
    np.testing.assert_allclose(jax.jit(encoder.apply)(encoder.variables, inputs), features, rtol=1e-4, atol=1e-5)
    # Of any number, an image's features do not depend on the others.
    for count in (0, 1, 3):
        np.testing.assert_allclose(encoder(images[:count]), features[:count], rtol=1e-4, atol=1e-5)
    assert encoder(np.zeros((2, 20, 12, 1), np.uint8)).shape == (2, encoder.feature_dim)

    result = launch(environment, copied, *SHORT, "--config.task=export")
    assert result.returncode == 0, result.stderr
    exported = vicreg_jax.load_encoder(copied / "export")
    np.testing.assert_array_equal(exported(images), features)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((1, 8, 8, 1), np.float32), TypeError, r"images must be uint8 .*; got dtype float32"),
        (np.zeros((8, 8, 1), np.uint8), ValueError, r"images must have shape .*; got shape \(8, 8, 1\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), ValueError, r"images must have shape \[batch, height, width, 1\]"),
        (np.zeros((1, 0, 8, 1), np.uint8), ValueError, "at least one pixel"),
    ],
)
def test_encoder_says_what_it_takes(finished, images, error, message):
    with pytest.raises(error, match=message):
        vicreg_jax.load_encoder(finished[0])(images)


def test_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"^path must be a run, an export or a file of weights; got .*, without a config\.json"
    ):
        vicreg_jax.load_encoder(tmp_path)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(finished, environment, tmp_path):
    workdir = tmp_path / "run"
    with run_processes(environment, workdir, *SHORT) as runs:
        assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]
        first, second = (run.said for run in runs)
    one, two = (json.loads((path / "summary.json").read_text()) for path in (finished[0], workdir))
    one_metrics, two_metrics = (read_metrics(path / "metrics.jsonl") for path in (finished[0], workdir))
    assert [row["step"] for row in two_metrics] == [row["step"] for row in one_metrics]
    # Sums over two devices are added in another order; what comes of that grows with the steps.
    assert two_metrics[0]["loss"] == pytest.approx(one_metrics[0]["loss"], rel=1e-4)
    assert two["loss"] == pytest.approx(one["loss"], rel=0.02)
    assert two["knn_accuracy"] == pytest.approx(one["knn_accuracy"], abs=0.05)
    assert "devices 2 x" in first
    assert "devices" not in second


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder as people have them: color, sizes of all kinds, no labels, one file cut short."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for index in range(60):
        height, width = random.integers(12, 30, 2)
        picture = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"photo_{index}.png")
    broken = folder / "broken.png"
    broken.write_bytes((folder / "photo_0.png").read_bytes()[:200])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["host", "device"])
def test_unlabeled_folder_with_a_truncated_image(environment, tmp_path, photos, placement):
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
    assert "unlabeled" in result.stdout
    assert "no accuracies" in result.stdout
    assert "splits  no folders train and test" in result.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["knn_accuracy"] is None
    assert summary["unreadable_images"] == 1
    assert np.isfinite(summary["loss"])
    assert "probe_accuracy" not in read_metrics(tmp_path / "metrics.jsonl")[-1]
    encoder = vicreg_jax.load_encoder(tmp_path)
    assert encoder(np.zeros((2, 20, 31, 3), np.uint8)).shape == (2, encoder.feature_dim)


@pytest.mark.slow
def test_a_folder_of_thermal_images_records_its_range_and_says_what_it_left_out(environment, tmp_path):
    rng = np.random.default_rng(0)
    folder, workdir = tmp_path / "[/photos]", tmp_path / "run"
    for index in range(40):
        (folder / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(7300, 8201, (20, 24), np.uint16)
        Image.fromarray(pixels).save(folder / "ab"[index % 2] / f"{index}.tif")
    Image.new("L", (8, 8)).save(folder / "thumbnail.jpg")
    (folder / "clip.mov").write_bytes(b"")
    (folder / "cut.png").write_bytes(b"\x89PNG")
    arguments = (
        f"--config.data.manual_dir={folder}",
        "--config.data.image_size=16",
        "--config.model.name=resnet_tiny",
        "--config.model.head_dims=(16, 16)",
        "--config.augment.mean=(0.5,)",
        "--config.augment.std=(0.5,)",
        "--config.train.batch_size=16",
        "--config.train.epochs=2",
        "--config.train.precision=float32",
    )
    result = launch(environment, workdir, *arguments, config="configs/image_folder.py")
    assert result.returncode == 0, result.stderr
    notes = [
        "left out: 1 .mov",
        "1 unreadable, of no format that Pillow knows: cut.png",
        "unlabeled: 2 images lie beside the class folders: cut.png, thumbnail.jpg",
    ]
    assert "\n        ".join(["notes   " + notes[0], *notes[1:]]) in result.stdout
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["data_notes"] == notes
    assert summary["data_warnings"] == []
    low, high = json.loads((workdir / "config.json").read_text())["data"]["value_range"]
    assert 7300 <= low < 7310 < 8190 < high <= 8200
    assert f"values  {low:g} becomes 0, {high:g} becomes 255" in result.stdout
    again = launch(environment, workdir, *arguments, config="configs/image_folder.py")
    assert (again.returncode, "this run is complete" in again.stdout) == (0, True), again.stderr
    other = launch(
        environment, workdir, *arguments, "--config.data.value_range=dtype", config="configs/image_folder.py"
    )
    assert other.returncode == 2
    assert "data.value_range was [" in other.stderr
    assert vicreg_jax.load_encoder(workdir).config.data.value_range == (low, high)


@pytest.mark.slow
def test_a_name_that_looks_like_markup(environment, tmp_path):
    write_idx(tmp_path / "files", train=64, test=20, shape=(8, 8))
    arguments = (
        "--config.data.name=[/x]",
        f"--config.data.manual_dir={tmp_path / 'files'}",
        "--config.train.batch_size=32",
        "--config.train.epochs=1",
        "--config.evaluation.every_epochs=0",
    )
    result = launch(environment, tmp_path / "run", *SHORT, *arguments)
    assert result.returncode == 0, result.stderr
    assert "data    [/x]: 64 training and 20 test images" in result.stdout
