"""An image file that goes bad during a run is named, replaced and counted."""

import json
import shutil
import signal

import numpy as np
import PIL.Image
import pytest

from tests.faults.kills import run_through_kills
from tests.runs import Run, assert_same_end, launch, steps_logged
from vicreg_jax.data import load_dataset

CONFIG = {"config": "configs/image_folder.py"}
STEPS = 60


@pytest.fixture
def photos(tmp_path):
    """A folder of 60 images, of which 54 are trained on: 3 steps an epoch."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(60):
        height, width = random.integers(12, 30, 2)
        picture = random.integers(0, 256, (height, width, 3), np.uint8)
        PIL.Image.fromarray(picture).save(folder / f"photo_{index}.png")
    return folder


@pytest.fixture
def arguments(photos):
    return (
        f"--config.data.manual_dir={photos}",
        "--config.data.placement=host",
        "--config.data.image_size=16",
        "--config.model.name=resnet_tiny",
        "--config.model.head_dims=(16, 16)",
        "--config.train.batch_size=16",
        "--config.train.epochs=20",
        "--config.train.precision=float32",
        "--config.checkpoint.every_steps=4",
        "--config.logging.every_steps=1",
    )


def spoil(photos, count):
    """Overwrites the ends of some training images, and keeps their sizes; returns their paths."""
    images = load_dataset("image_folder", "train", manual_dir=str(photos), image_size=16)
    spoiled = [images.name_of(index) for index in range(10, 10 + count)]
    for path in spoiled:
        with open(path, "r+b") as file:
            length = file.seek(0, 2) - file.seek(60)
            file.write(bytes(length))
    return spoiled


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_named_replaced_and_counted(environment, tmp_path, photos, arguments, workers):
    workdir = tmp_path / "run"
    with Run(environment, workdir, *arguments, f"--config.data.workers={workers}", **CONFIG) as run:
        assert run.reaches(lambda: steps_logged(workdir)), run.said
        [path] = spoil(photos, 1)
        assert run.wait() == 0, run.said
        assert run.said.count(f"{path} cannot be read; the next readable image replaces it\n") == 1
    assert json.loads((workdir / "summary.json").read_text())["unreadable_images"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_the_same_after_kills(environment, tmp_path, photos, arguments, workers):
    arguments = (*arguments, f"--config.data.workers={workers}")
    workdir, killed = tmp_path / "run", tmp_path / "killed"
    with Run(environment, workdir, *arguments, **CONFIG) as run:
        assert run.reaches(lambda: 6 in steps_logged(workdir)), run.said
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 75, run.said
    # While no run is there: how far a run reads ahead is not always the same.
    spoil(photos, 2)
    shutil.copytree(workdir, killed)
    result = launch(environment, workdir, *arguments, **CONFIG)
    assert result.returncode == 0, result.stderr
    phases = run_through_kills(
        environment, killed, *arguments, kills=4, total_steps=STEPS, seed=1, group=workers > 0, **CONFIG
    )
    print(dict(phases))
    assert_same_end(killed, workdir)
    assert json.loads((killed / "summary.json").read_text())["unreadable_images"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_too_many(environment, tmp_path, photos, arguments, workers):
    workdir = tmp_path / "run"
    with Run(environment, workdir, *arguments, f"--config.data.workers={workers}", **CONFIG) as run:
        assert run.reaches(lambda: steps_logged(workdir)), run.said
        spoil(photos, 3)  # of 54, a twentieth being allowed
        assert run.wait() == 1, run.said
    last = run.said.splitlines()[-1]
    assert last.startswith(
        "error: config.data.max_unreadable must be at least the fraction of unreadable images; "
        "got 0.05, but 3 of the 54 images of 'image_folder' cannot be read (last: "
    )
    assert "Traceback" not in run.said
