"""A workdir that is full, gone, or another run's: one line says so, and what was there stays."""

import socket
import sys

import pytest

from tests.runs import SHORT, Run, assert_same_end, command, launch, run_command, steps_logged, steps_saved

LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def launch_limited(environment, workdir, size):
    """The short run, where writing a file beyond that size fails, much as on a disk that is full."""
    return run_command(environment, [sys.executable, "-c", LIMITED, str(size), *command(workdir, *SHORT)])


def error_of(said):
    """The line that says what ended the run; Orbax and JAX may have said more before."""
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.slow
def test_disk_full_while_saving(finished, environment, tmp_path):
    workdir = tmp_path / "run"
    faulty = environment | {"FAULT": "hang 20"}  # so that steps are left when it is killed
    with Run(faulty, workdir, *SHORT, program="tests/faults/faulty_launch.py") as run:
        assert run.reaches(lambda: steps_saved(workdir)), run.said
        run.kill()
    kept = steps_saved(workdir)
    # The metrics are smaller, and the programs are compiled already.
    arrays = max(path.stat().st_size for path in (workdir / "checkpoints").rglob("*") if path.is_file())
    result = launch_limited(environment, workdir, arrays // 2)
    assert result.returncode == 1
    assert error_of(result.stderr).startswith(f"error: a checkpoint cannot be written to {workdir}/checkpoints: ")
    assert steps_saved(workdir) == kept
    result = launch(environment, workdir, *SHORT)
    assert result.returncode == 0, result.stderr
    assert f"resuming from step {kept[-1]}\n" in result.stdout
    assert_same_end(workdir, finished[0])


@pytest.mark.slow
@pytest.mark.parametrize("size", [20, 1_000, 4_000, 20_000])
def test_disk_full_at_any_time(finished, environment, tmp_path, size):
    """With the lock, the config, the metrics and the checkpoint as the first file that does not fit."""
    workdir = tmp_path / "run"
    result = launch_limited(environment, workdir, size)
    assert result.returncode == 1, result.stderr
    assert str(workdir) in error_of(result.stderr)
    assert launch(environment, workdir, *SHORT).returncode == 0
    assert_same_end(workdir, finished[0])


@pytest.mark.slow
def test_workdir_removed_while_the_run_goes_on(finished, environment, tmp_path):
    workdir = tmp_path / "run"
    with Run(environment, workdir, *SHORT) as run:
        assert run.reaches(lambda: steps_logged(workdir)), run.said
        workdir.rename(tmp_path / "away")  # at one stroke, and nothing is left
        assert run.wait() == 1
        assert str(workdir) in error_of(run.said)
    assert not (workdir / "summary.json").exists()


@pytest.mark.slow
def test_second_run_is_refused_until_the_first_is_gone(environment, tmp_path):
    workdir = tmp_path / "run"
    with Run(environment, workdir, *SHORT) as first:
        assert first.reaches((workdir / "config.json").exists), first.said
        second = launch(environment, workdir, *SHORT)
        assert second.returncode == 2
        assert second.stderr.count("\n") == 1
        holder = f"process {first.process.pid} on {socket.gethostname()}"
        assert second.stderr.startswith(
            f"error: --workdir must not be in use by another run; got '{workdir}', held by {holder} since "
        )
        assert first.kill()
    with Run(environment, workdir, *SHORT) as third:
        assert third.reaches(lambda: "run     vicreg" in third.said), third.said
