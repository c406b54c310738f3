"""One of two hosts dies: the other does not wait for it for ever."""

import pytest

from tests.runs import SHORT, run_processes, steps_logged


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, 1])
def test_other_host_ends(environment, tmp_path, dead):
    workdir = tmp_path / "run"
    with run_processes(environment, workdir, *SHORT) as runs:
        assert runs[0].reaches(lambda: steps_logged(workdir)), runs[0].said
        assert runs[dead].kill()
        other = runs[1 - dead]
        # Process 0 has the service with which all keep in touch; JAX itself aborts a process that has lost it.
        assert other.wait(90) in ((75, 134, -6) if dead == 0 else (75,)), other.said
        print(dead, other.process.returncode, other.said[-1500:])
    with run_processes(environment, workdir, *SHORT) as runs:
        assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]
