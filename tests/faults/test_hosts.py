"""Hosts that disagree, that are late, or that die: no other waits forever, and none trains alone."""

import pytest
from PIL import Image

from tests.runs import SHORT, run_processes, steps_logged


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, 1])
def test_other_host_ends(environment, tmp_path, dead):
    workdir = tmp_path / "run"
    with run_processes(environment, workdir, *SHORT) as runs:
        assert runs[0].reaches(lambda: steps_logged(workdir)), runs[0].said
        assert runs[dead].kill()
        other = runs[1 - dead]
        # A process in a collective exits with 75. JAX itself aborts one that waits for the dead one's word, after the
        # missing heartbeat, or that has lost process 0, with which all keep in touch: the scripts rerun after both.
        assert other.wait(90) in (75, 134, -6), other.said
        print(dead, other.process.returncode, other.said[-1500:])
    with run_processes(environment, workdir, *SHORT) as runs:
        assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("seed", "0 1"),
        ("optim.base_lr", "0.3 0.2"),
        ("train.epochs", "4 5"),
        ("train.batch_size", "128 64"),
        ("logging.every_steps", "10 20"),
        ("evaluation.draws", "2 3"),
        ("checkpoint.every_steps", "15 30"),
    ],
)
def test_hosts_with_another_config_are_refused_everywhere(environment, tmp_path, field, values):
    first, second = values.split()
    name, workdir = f"config.{field}", tmp_path / "run"
    with run_processes(environment, workdir, *SHORT, f"--{name}={first}", last=[f"--{name}={second}"]) as runs:
        line = f"error: {name} must be the same in every process; got {first} in process 0 and {second} in process 1\n"
        assert [run.wait(120) for run in runs] == [2, 2], [run.said for run in runs]
        assert [run.said for run in runs] == [line, line]
    assert not workdir.exists()


@pytest.mark.slow
def test_hosts_with_other_data_are_refused_everywhere(environment, tmp_path):
    for place, count in (("here", 20), ("there", 21)):
        for index in range(count):
            path = tmp_path / place / ("train" if index % 2 else "test") / "ab"[index // 2 % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8)).save(path)
    folders = [f"--config.data.manual_dir={tmp_path / place}" for place in ("here", "there")]
    arguments = ("--config.data.name=image_folder", "--config.train.batch_size=4", folders[0])
    workdir = tmp_path / "run"
    with run_processes(environment, workdir, *arguments, last=folders[1:]) as runs:
        assert [run.wait(120) for run in runs] == [2, 2], [run.said for run in runs]
        for run in runs:
            assert run.said.startswith(
                "error: number of images of config.data.test_split must be the same in every process; got 10 in "
                "process 0 and 11 in process 1; "
            )
    with run_processes(environment, workdir, *arguments, last=["--config.data.manual_dir=/nowhere"]) as runs:
        assert [run.wait(120) for run in runs] == [2, 2], [run.said for run in runs]
        for run in runs:
            assert run.said.startswith("error: config.data.manual_dir must be a folder; got '/nowhere'")
            assert run.said.endswith("(in process 1)\n")
    assert not (workdir / "config.json").exists()


@pytest.mark.slow
def test_hosts_wait_for_one_that_compiles_longer(environment, tmp_path):
    """Gloo's first collective of a group of devices waits 30 seconds only, and these are new to the train step."""
    late = environment | {"FAULT": "late 45", "JAX_NUM_CPU_DEVICES": "2"}
    with run_processes(
        late, tmp_path / "run", *SHORT, "--config.mesh.fsdp=2", program="tests/faults/faulty_launch.py"
    ) as runs:
        assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]
