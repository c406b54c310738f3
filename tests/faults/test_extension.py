"""What may change between two starts of a run, and what may not: its length, its data, its checkpoints, its workdir."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest

from tests.runs import SHORT, Run, assert_same_end, final_state, launch, steps_logged, steps_saved
from vicreg_jax.optim import warmup_cosine
from vicreg_jax.training.metrics import read_metrics

FAULTY = {"program": "tests/faults/faulty_launch.py"}
LONGER = (*SHORT[1:], "--config.train.epochs=6")  # than SHORT's 4: 66 steps for 44
EVERY_STEP = "--config.logging.every_steps=1"


def rates_of(workdir):
    return {row["step"]: row["learning_rate"] for row in read_metrics(workdir / "metrics.jsonl")}


def config_of(workdir):
    return json.loads((workdir / "config.json").read_text())


def run_until(environment, workdir, step, *arguments):
    """A run that is killed with the checkpoint of that step as its newest."""
    # So that steps are left when it is killed.
    with Run(environment | {"FAULT": f"hang {step + 8}"}, workdir, *arguments, **FAULTY) as run:
        assert run.reaches(lambda: step in steps_saved(workdir)), run.said
        run.kill()
    assert steps_saved(workdir)[-1] == step


def refused(result):
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    return result.stderr


def replanned(config, first, steps):
    optim = config["optim"]
    schedule = warmup_cosine(optim["base_lr"], config["train"]["batch_size"], 11, optim["warmup_epochs"], 6)
    return [schedule(step) for step in steps]


def cosine_from_here(config, first, steps):
    last = 0.001 * config["optim"]["base_lr"] * config["train"]["batch_size"] / 256
    return last + (first - last) * (1 + np.cos(np.pi * (steps - 30) / 36)) / 2


LATER = {"replan": replanned, "cosine_from_here": cosine_from_here}


@pytest.mark.slow
@pytest.mark.parametrize("how", LATER)
def test_extended_run_is_killed_and_resumed(environment, tmp_path, how):
    """With the same schedule and the same bits, wherever it is killed, and by whichever command it is resumed."""
    extend = (*LONGER, EVERY_STEP, f"--config.train.extend={how}")
    short, whole, killed = tmp_path / "short", tmp_path / "whole", tmp_path / "killed"
    run_until(environment, short, 30, *SHORT, EVERY_STEP)
    before = rates_of(short)
    error = refused(launch(environment, short, *LONGER, EVERY_STEP))
    assert "train.epochs was 4 and is 6 (to train longer, set train.extend=replan or" in error
    for workdir in (whole, killed):
        shutil.copytree(short, workdir)
    result = launch(environment, whole, *extend)
    assert result.returncode == 0, result.stderr
    assert "resuming from step 30\n" in result.stdout
    config = config_of(whole)["train"]
    assert (config["epochs"], config["extend"], config["extensions"]) == (6, None, [[30, 4, how]])
    rates = rates_of(whole)
    assert sorted(rates) == list(range(1, 67))
    assert {step: rates[step] for step in range(1, 31)} == {step: before[step] for step in range(1, 31)}
    expected = LATER[how](
        config_of(whole), rates[31], np.arange(30, 66)
    )  # the row of step 31 has the rate of update 30
    np.testing.assert_allclose([rates[step] for step in range(31, 67)], expected, rtol=1e-4)
    # Killed before its first checkpoint, and after it.
    run_until(environment, killed, 45, *extend)
    shutil.rmtree(killed / "checkpoints" / "45")
    run_until(environment, killed, 45, *extend)
    result = launch(environment, killed, *LONGER, EVERY_STEP)  # without train.extend
    assert result.returncode == 0, result.stderr
    assert_same_end(killed, whole)
    assert "train.epochs was 6 and is 4" in refused(launch(environment, killed, *SHORT, EVERY_STEP))
    again = launch(environment, killed, *extend)
    assert (again.returncode, "this run is complete" in again.stdout) == (0, True)


@pytest.mark.slow
def test_run_of_a_constant_rate_is_extended_as_if_it_had_been_planned(environment, undisturbed, tmp_path):
    """While its rate is constant; and the extended run's own config.json runs it again."""
    wsd = ("--config.optim.schedule=wsd", "--config.optim.decay_fraction=0.1", EVERY_STEP)
    planned, _ = undisturbed(*LONGER, *wsd)
    workdir = tmp_path / "run"
    run_until(environment, workdir, 30, *SHORT, *wsd)
    result = launch(environment, workdir, *LONGER, *wsd, "--config.train.extend=replan")
    assert result.returncode == 0, result.stderr
    assert_same_end(workdir, planned)
    again = tmp_path / "again"
    result = launch(environment, again, config=workdir / "config.json")
    assert result.returncode == 0, result.stderr
    assert_same_end(again, workdir)
    other = launch(environment, tmp_path / "other", "--config.seed=1", config=workdir / "config.json")
    assert other.returncode == 0, other.stderr
    assert config_of(tmp_path / "other")["seed"] == 1


@pytest.mark.slow
def test_finished_run_is_extended(environment, finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    result = launch(environment, workdir, *LONGER, "--config.train.extend=replan")
    assert result.returncode == 0, result.stderr
    assert "resuming from step 44\n" in result.stdout
    summary = json.loads((workdir / "summary.json").read_text())
    assert (summary["steps"], summary["epochs"]) == (66, 6)
    assert config_of(workdir)["train"]["extensions"] == [[44, 4, "replan"]]


@pytest.mark.slow
def test_nothing_to_extend(environment, tmp_path):
    error = refused(launch(environment, tmp_path / "run", *LONGER, "--config.train.extend=replan"))
    assert error == "error: config.train.extend must be None for a run without a checkpoint; got 'replan'\n"
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_run_binds_its_workdir_with_its_first_checkpoint(environment, finished, tmp_path):
    workdir = tmp_path / "run"
    other = (*SHORT, "--config.seed=5", EVERY_STEP, "--config.checkpoint.every_steps=1000")
    with Run(environment, workdir, *other) as run:
        assert run.reaches(lambda: steps_logged(workdir)), run.said
        run.kill()
    assert steps_saved(workdir) == []
    assert launch(environment, workdir, *SHORT).returncode == 0
    assert_same_end(workdir, finished[0])
    assert "seed was 0 and is 5" in refused(launch(environment, workdir, *other))


@pytest.mark.slow
def test_checkpoints_that_are_not_of_this_step_or_run(environment, finished, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    run_until(environment, workdir, 30, *SHORT)
    checkpoints = workdir / "checkpoints"
    other, _ = undisturbed(*SHORT, "--config.seed=5")
    newest = steps_saved(other)[-1]
    (checkpoints / "30").rename(checkpoints / "40")
    shutil.copytree(other / "checkpoints" / str(newest), checkpoints / str(newest))
    result = launch(environment, workdir, *SHORT)
    assert result.returncode == 0, result.stderr
    assert f"the checkpoint of step {newest} is of another run (seed 5, not 0): moved to damaged_" in result.stdout
    assert "the checkpoint of step 40 is that of step 30: moved to damaged_checkpoints/\n" in result.stdout
    assert "resuming from step 15\n" in result.stdout
    assert {path.name for path in (workdir / "damaged_checkpoints").iterdir()} == {"40", str(newest)}
    assert_same_end(workdir, finished[0])


@pytest.fixture
def photos(tmp_path):
    """60 images, of which 54 are trained on: 3 steps an epoch."""
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for index in range(60):
        picture = random.integers(0, 256, (20, 24, 3), np.uint8)
        PIL.Image.fromarray(picture).save(tmp_path / "photos" / f"photo_{index}.png")
    return tmp_path / "photos"


PHOTOS = (
    "--config.data.image_size=16",
    "--config.model.name=resnet_tiny",
    "--config.model.head_dims=(16, 16)",
    "--config.train.batch_size=16",
    "--config.train.epochs=8",
    "--config.train.precision=float32",
    "--config.checkpoint.every_steps=4",
    "--config.logging.every_steps=1",
)


@pytest.mark.slow
def test_data_are_known_by_what_they_are(environment, tmp_path, photos):
    """A folder may be moved and read in another way; it may not change."""
    config = {"config": "configs/image_folder.py"}
    straight, workdir, changed = tmp_path / "straight", tmp_path / "run", tmp_path / "changed"
    assert launch(environment, straight, *PHOTOS, f"--config.data.manual_dir={photos}", **config).returncode == 0
    for path in (workdir, changed):
        shutil.copytree(straight, path)
        for step in steps_saved(path)[1:]:
            shutil.rmtree(path / "checkpoints" / str(step))
        (path / "summary.json").unlink()
    elsewhere = shutil.move(photos, tmp_path / "elsewhere")
    how = (
        "--config.data.workers=1",
        "--config.data.placement=host",
        "--config.data.max_unreadable=0.5",
        f"--config.data.data_dir={tmp_path / 'data'}",
        "--config.train.on_nonfinite=skip",
    )
    result = launch(environment, workdir, *PHOTOS, *how, f"--config.data.manual_dir={elsewhere}/", **config)
    assert result.returncode == 0, result.stderr
    assert f"resuming from step {steps_saved(changed)[-1]}\n" in result.stdout
    found, expected = final_state(workdir), final_state(straight)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name].astype(np.float64), array.astype(np.float64), rtol=1e-3, atol=1e-5)
    with (elsewhere / "photo_7.png").open("ab") as file:
        file.write(b"more")
    (elsewhere / "photo_8.png").rename(elsewhere / "photo_80.png")
    error = refused(launch(environment, changed, *PHOTOS, f"--config.data.manual_dir={elsewhere}", **config))
    assert f"config.data.manual_dir must hold the training images that this run began with; got '{elsewhere}'" in error
    assert "other file names" in error
    assert "other file sizes" in error
