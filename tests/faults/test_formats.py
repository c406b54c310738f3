"""Runs on WebDataset shards: killed and resumed, of two processes, and where a shard changes meanwhile."""

import json
import os

import numpy as np
import pytest

from tests.data.files import png, write_tar
from tests.faults.kills import run_through_kills
from tests.runs import Run, assert_same_end, launch, run_processes, steps_logged

CONFIG = {"config": "configs/image_folder.py"}
STEPS = 30


@pytest.fixture
def arguments(tmp_path):
    """Of a run on 48 images in three shards: 3 steps an epoch."""
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
    return (
        "--config.data.name=webdataset",
        f"--config.data.manual_dir={tmp_path / 'tars'}",
        "--config.data.placement=host",
        "--config.data.image_size=16",
        "--config.model.name=resnet_tiny",
        "--config.model.head_dims=(16, 16)",
        "--config.train.batch_size=16",
        "--config.train.epochs=10",
        "--config.train.precision=float32",
        "--config.checkpoint.every_steps=4",
        "--config.logging.every_steps=1",
    )


@pytest.mark.slow
def test_the_same_after_kills(environment, tmp_path, arguments):
    result = launch(environment, tmp_path / "run", *arguments, **CONFIG)
    assert result.returncode == 0, result.stderr
    assert "train is 3 files (train-0.tar, train-1.tar, train-2.tar), test is test-0.tar" in result.stdout
    killed = tmp_path / "killed"
    run_through_kills(environment, killed, *arguments, kills=2, total_steps=STEPS, seed=3, **CONFIG)
    assert_same_end(killed, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_learn_what_one_does(environment, tmp_path, arguments):
    result = launch(environment, tmp_path / "one", *arguments, **CONFIG)
    assert result.returncode == 0, result.stderr
    with run_processes(environment, tmp_path / "two", *arguments, **CONFIG) as runs:
        assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert two["loss"] == pytest.approx(one["loss"], rel=0.02)
    assert steps_logged(tmp_path / "two") == steps_logged(tmp_path / "one")


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
