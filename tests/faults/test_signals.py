"""A preempted run saves a checkpoint and ends; a second signal ends it at once."""

import signal
import subprocess
import sys
import time

import pytest

from tests.runs import SHORT, STEPS, Run, assert_same_end, launch, run_processes, steps_logged, steps_saved
from vicreg_jax.data import dataset
from vicreg_jax.runtime.errors import Preempted

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
NEVER_SAVED = "--config.checkpoint.every_steps=1000"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_state_is_saved_and_the_run_ends_bit_for_bit_the_same(finished, environment, tmp_path, number):
    workdir = tmp_path / "run"
    with Run(environment, workdir, *SHORT, NEVER_SAVED) as run:
        assert run.reaches(lambda: steps_logged(workdir)), run.said
        run.process.send_signal(number)
        assert run.wait(60) == EXIT_CODES[number]
    [step] = steps_saved(workdir)
    assert 10 < step < STEPS
    assert run.said.endswith(f"preempted: saved step {step}; rerun the same command to resume\n")
    assert not (workdir / "summary.json").exists()
    result = launch(environment, workdir, *SHORT)
    assert result.returncode == 0, result.stderr
    assert f"resuming from step {step}\n" in result.stdout
    assert_same_end(workdir, finished[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", EXIT_CODES)
def test_second_signal_ends_a_compilation_at_once(environment, tmp_path, number):
    with Run(environment | {"JAX_ENABLE_COMPILATION_CACHE": "0"}, tmp_path / "run", *SHORT) as run:
        assert run.reaches(lambda: "run     vicreg" in run.said), run.said
        time.sleep(1)
        _send_twice(run, number)
        assert run.wait(5) == EXIT_CODES[number]
    assert "first step" not in run.said


@pytest.mark.slow
@pytest.mark.parametrize("number", EXIT_CODES)
def test_second_signal_ends_a_step_that_hangs(environment, tmp_path, number):
    faulty = environment | {"FAULT": "hang 20"}
    with Run(faulty, tmp_path / "run", *SHORT, program="tests/faults/faulty_launch.py") as run:
        assert run.reaches(lambda: steps_saved(run.workdir)), run.said
        time.sleep(2)
        assert run.process.poll() is None
        _send_twice(run, number)
        assert run.wait(5) == EXIT_CODES[number]
    assert steps_saved(run.workdir) == [15]


def _send_twice(run, number):
    for _ in range(2):
        run.process.send_signal(number)
        time.sleep(0.5)


def test_signal_in_the_middle_of_decoding_is_no_unreadable_image(monkeypatch):
    def interrupted(*_):
        raise Preempted("preempted")

    monkeypatch.setattr(dataset, "decode_into", interrupted)
    images = dataset.Dataset("images", "train", [(b"", 0)] * 3, canvas=6, channels=3)
    with pytest.raises(Preempted):
        images[0]
    assert not images.unreadable


@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.slow
def test_two_processes_save_one_step_and_leave(environment, undisturbed, tmp_path, asked):
    workdir = tmp_path / "run"
    with run_processes(environment, workdir, *SHORT, NEVER_SAVED) as runs:
        assert runs[0].reaches(lambda: steps_logged(workdir)), runs[0].said
        runs[asked].process.send_signal(signal.SIGTERM)
        assert [run.wait(60) for run in runs] == [75, 75], [run.said for run in runs]
        [step] = steps_saved(workdir)
        for run in runs:
            assert f"preempted: saved step {step}" in run.said
    assert 10 < step < STEPS
    with run_processes(environment, workdir, *SHORT) as runs:
        assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]
        assert f"resuming from step {step}\n" in runs[0].said
    with run_processes(environment, tmp_path / "other", *SHORT) as runs:
        assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]
    assert_same_end(workdir, tmp_path / "other")


@pytest.fixture
def busy():
    """Six processes that keep both cores busy."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
    yield
    for process in spinning:
        process.kill()
        process.wait()


@pytest.mark.parametrize("attempt", range(20))
@pytest.mark.slow
def test_two_processes_leave_together_on_a_busy_host(environment, busy, tmp_path, attempt):
    """JAX aborts a process that ends after the first one; on a busy host either may be seconds late."""
    workdir = tmp_path / "run"
    with run_processes(environment, workdir, *SHORT, NEVER_SAVED) as runs:
        assert runs[0].reaches(lambda: steps_logged(workdir)), runs[0].said
        runs[attempt % 2].process.send_signal(signal.SIGTERM)
        assert [run.wait(300) for run in runs] == [75, 75], [run.said for run in runs]
        [step] = steps_saved(workdir)
        for run in runs:
            assert f"preempted: saved step {step}" in run.said
