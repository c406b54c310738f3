"""A step whose loss is NaN: the run stops and keeps the last finite state, or skips the update."""

import json

import numpy as np
import pytest

from tests.faults.kills import run_through_kills
from tests.runs import Run, assert_same_end, final_state, launch, steps_logged, steps_saved

BRIEF = (
    "--config.train.epochs=3",
    "--config.model.head_dims=(32, 32)",
    "--config.checkpoint.every_steps=7",
    "--config.logging.every_steps=1",
    "--config.evaluation.every_epochs=0",
    "--config.evaluation.labels_per_class=(1,)",
    "--config.evaluation.draws=1",
)
FAULTY = {"program": "tests/faults/faulty_launch.py"}


@pytest.fixture
def faulty(environment):
    return environment | {"FAULT": "nan 12"}


@pytest.mark.slow
def test_stops_and_goes_on_where_it_was_an_accident(environment, faulty, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    for _ in range(2):  # the second time from the checkpoint
        result = launch(faulty, workdir, *BRIEF, **FAULTY)
        assert result.returncode == 1
        assert result.stderr.startswith("error: step 13: loss is nan; stopped; the checkpoint of step 7 is kept. ")
        assert result.stderr.count("\n") == 1
        assert steps_saved(workdir) == [7]
        assert max(steps_logged(workdir)) < 13
    result = launch(environment, workdir, *BRIEF)
    assert result.returncode == 0, result.stderr
    assert_same_end(workdir, undisturbed(*BRIEF)[0])


@pytest.mark.slow
def test_update_is_left_out_also_after_kills(faulty, undisturbed, tmp_path):
    arguments = (*BRIEF, "--config.train.on_nonfinite=skip")
    with Run(faulty, tmp_path / "run", *arguments, **FAULTY) as run:
        assert run.wait() == 0, run.said
        assert "step 13: loss is nan; update skipped (1 so far)\n" in run.said
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_updates"] == 1
    rows = steps_logged(tmp_path / "run")
    assert rows == list(range(1, 34))
    state = final_state(tmp_path / "run")
    assert all(np.isfinite(array).all() for array in state.values())
    assert state["['skipped']"] == 1
    phases = run_through_kills(faulty, tmp_path / "killed", *arguments, kills=4, total_steps=33, seed=4, **FAULTY)
    print(dict(phases))
    assert_same_end(tmp_path / "killed", tmp_path / "run")
