"""Runs on every format: killed and resumed, of two processes, and where a shard changes meanwhile."""

import os

import numpy as np
import pytest

from tests.data import formats
from tests.data.files import png, write_tar
from tests.runs import (
    Run,
    assert_same_state,
    launch,
    run_processes,
    steps_logged,
    steps_saved,
    what_was_learned,
)
from vicreg_jax.training.metrics import read_metrics

CONFIG = {"config": "configs/image_folder.py"}
STEPS = 30
SHORT = (
    "--config.data.placement=host",
    "--config.data.image_size=16",
    "--config.model.name=resnet_tiny",
    "--config.model.head_dims=(16, 16)",
    "--config.train.batch_size=16",
    "--config.train.epochs=10",
    "--config.train.precision=float32",
    "--config.checkpoint.every_steps=4",
    "--config.logging.every_steps=1",
    "--config.evaluation.draws=2",
    "--config.evaluation.label_free_images=0",
)
IMAGES = formats.examples(56)
SPLITS = ("--config.data.train_split=train[:48]", "--config.data.test_split=train[48:]")  # 3 steps an epoch
FORMATS = (*formats.LOSSLESS, formats.jpeg_store)
every_format = pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)


@pytest.fixture(scope="module")
def arguments_for(tmp_path_factory):
    """`arguments_for(write)`: of a run on the images in that format."""
    made = {}

    def arguments(write):
        if write not in made:
            source = write(tmp_path_factory.mktemp(write.__name__), IMAGES)
            made[write] = (*(f"--config.data.{field}={value}" for field, value in source.items()), *SPLITS, *SHORT)
        return made[write]

    return arguments


def on_images(workdir):
    """What a run has learned, apart from what the format alone says."""
    summary, metrics = what_was_learned(workdir)
    return {name: summary[name] for name in ("loss", "knn_accuracy", "linear_accuracy", "baselines")}, metrics


@pytest.fixture(scope="module")
def one_process(undisturbed, arguments_for):
    """`one_process(write)`: the workdir of an undisturbed run on the same pixels: one for all lossless formats."""
    return lambda write: undisturbed(
        *arguments_for(formats.image_folder if write in formats.LOSSLESS else write), **CONFIG
    )[0]


@pytest.mark.slow
@every_format
def test_killed_and_resumed_it_learns_what_every_format_does(environment, tmp_path, arguments_for, one_process, write):
    """In mid-epoch, bit for bit."""
    workdir = tmp_path / "run"
    with Run(environment, workdir, *arguments_for(write), **CONFIG) as run:
        assert run.reaches(lambda: steps_saved(workdir)), run.said
        assert run.kill()
    assert max(steps_saved(workdir)) < STEPS
    result = launch(environment, workdir, *arguments_for(write), **CONFIG)
    assert result.returncode == 0, result.stderr
    assert "resuming from step" in result.stdout
    assert on_images(workdir) == on_images(one_process(write))
    assert_same_state(workdir, one_process(write))


@pytest.mark.slow
@every_format
def test_two_processes_learn_what_one_does(environment, tmp_path, arguments_for, one_process, write):
    workdir = tmp_path / "run"
    with run_processes(environment, workdir, *arguments_for(write), **CONFIG) as runs:
        assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]
    two, one = (
        [(row["step"], row["loss"]) for row in read_metrics(place / "metrics.jsonl") if "loss" in row]
        for place in (workdir, one_process(write))
    )
    assert [step for step, _ in two] == [step for step, _ in one]
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    assert two[-1] == pytest.approx(one[-1], rel=0.02)


@pytest.fixture
def arguments(tmp_path):
    """Of a run on 48 images in three shards."""
    random = np.random.default_rng(0)
    for number in range(4):
        members = [
            (f"{number}{image:03}.{suffix}", content)
            for image in range(16)
            for suffix, content in (
                ("png", png(random.integers(0, 256, (*random.integers(12, 30, 2), 3), np.uint8))),
                ("cls", b"%d" % (image % 2)),
            )
        ]
        write_tar(tmp_path / "tars" / ("test-0.tar" if number == 3 else f"train-{number}.tar"), members)
    return ("--config.data.name=webdataset", f"--config.data.manual_dir={tmp_path / 'tars'}", *SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_cut_ends_the_run_in_one_line(environment, tmp_path, arguments, workers):
    arguments = (*arguments, "--config.train.epochs=1000", f"--config.data.workers={workers}")
    shard = tmp_path / "tars" / "train-1.tar"
    with Run(environment, tmp_path / "run", *arguments, **CONFIG) as run:
        assert run.reaches(lambda: steps_logged(tmp_path / "run")), run.said
        os.truncate(shard, 1000)
        assert run.wait(120) == 1, run.said
        assert f"config.data.manual_dir must hold the files that were opened; got '{shard}', which has" in run.said
        assert "Traceback" not in run.said
    result = launch(environment, tmp_path / "run", *arguments, **CONFIG)
    assert result.returncode != 0
    assert (
        f"config.data.manual_dir must hold intact, uncompressed tar files; got '{shard}' (truncated)" in result.stderr
    )
