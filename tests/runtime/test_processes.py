"""How processes find each other and come to one answer; two real ones under SLURM's variables. Its own worker."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from vicreg_jax.runtime import processes
from vicreg_jax.runtime.errors import InputError, Preempted

SLURM = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    ("variables", "platform"),
    [
        ({}, None),
        (SLURM, "SLURM"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}, None),  # a shell inside an allocation
        ({"SLURM_STEP_NUM_TASKS": "2"}, None),
    ],
)
def test_slurm_is_seen_where_it_started_several_tasks(monkeypatch, variables, platform):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes.platform_with_hosts() == platform


@pytest.mark.parametrize(
    ("devices", "platforms", "has_libtpu", "platform"),
    [
        (["accel0", "accel1"], None, True, "Cloud TPU"),
        (["vfio/0"], "tpu,cpu", True, "Cloud TPU"),
        (["accel0"], None, False, None),
        (["accel0"], "cpu", True, None),
        (["vfio/vfio", "null"], None, True, None),
    ],
)
def test_cloud_tpu_is_seen_by_its_chips_and_its_library(
    monkeypatch, tmp_path, devices, platforms, has_libtpu, platform
):
    for name in devices:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(processes, "Path", lambda path: tmp_path / Path(path).relative_to("/dev"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if has_libtpu else None)
    for name in ("SLURM_STEP_NUM_TASKS", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    if platforms is not None:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert processes.platform_with_hosts() == platform


@pytest.fixture
def initialized(monkeypatch):
    """The arguments that `jax.distributed` is called with; the error that it shall raise goes into `error`."""

    class Calls(list):
        error: Exception | None = None

    calls = Calls()

    def initialize(*arguments, **options):
        calls.append(arguments)
        if calls.error is not None:
            raise calls.error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(processes, "platform_with_hosts", lambda: None)
    return calls


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("host:1", None, None), "--coordinator_address, --num_processes and --process_id must be given together"),
        ((None, 2, 0), "must be given together"),
        (("host:1", 2, None), "must be given together"),
        (("host:1", 2, 2), "--process_id must be from 0 to 1 for 2 processes; got 2"),
        (("host:1", 2, -1), "--process_id must be from 0 to 1 for 2 processes; got -1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(initialized, arguments, says):
    with pytest.raises(InputError, match=says):
        processes.start(*arguments)
    assert initialized == []


def test_whether_the_platform_is_asked(initialized, monkeypatch):
    alone, several = (None, None, None), ("host:1", 2, 1)
    processes.start()
    processes.start(distributed=False)
    assert initialized == []
    processes.start(distributed=True)
    processes.start(*several)
    assert initialized == [alone, several]
    monkeypatch.setattr(processes, "platform_with_hosts", lambda: "SLURM")
    processes.start()
    processes.start(distributed=False)
    assert initialized == [alone, several, alone]


def test_others_that_cannot_be_found_are_said_in_a_line(initialized):
    initialized.error = ValueError("coordinator_address should\nbe defined.")
    with pytest.raises(
        InputError,
        match=r"^--distributed must find the other processes; got coordinator_address should be defined\. ",
    ):
        processes.start(distributed=True)
    initialized.error = jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED:\n1/2 came")
    with pytest.raises(
        Preempted, match=r"^timed out waiting for the other processes \(DEADLINE_EXCEEDED: 1/2 came\); rerun"
    ):
        processes.start("host:1", 2, 0)


def test_alone_everything_is_its_own_answer():
    assert not processes.are_several()
    assert processes.is_first()
    assert processes.decide(lambda: (1, "any thing")) == (1, "any thing")
    assert [processes.all_agree(is_so) for is_so in (True, False)] == [True, False]
    assert processes.union([3, 1, 3]) == {1, 3}
    assert processes.union([]) == set()
    vote = processes.Vote()
    assert [vote.cast(number) for number in (0, 15, 0)] == [0, 15, 0]


NUMBERS = ([5, 0], [7, 5, 40_000])
# By process, one a step: a vote to save, a signal to the second, and both at once.
VOTES = ([0, 0, 1, 0, 0, 1, *[0] * 12], [0, 0, 0, 15, 0, 2, *[0] * 12])


def work():
    """What each of the processes says; printed as JSON."""
    processes.start()
    me = jax.process_index()
    asked = []

    def choose():
        asked.append(me)
        return {"by": me, "text": "größer " * 100}

    def refuse():
        raise InputError("config.seed: got nothing")

    said = {"processes": jax.process_count(), "first": processes.is_first(), "several": processes.are_several()}
    said |= {"decided": processes.decide(choose), "asked": asked}
    try:
        processes.decide(refuse)
    except InputError as error:
        said["refused"] = str(error)
    said["agree"] = [processes.all_agree(is_so) for is_so in (True, me == 0, me == 1, False)]
    said["union"] = [sorted(processes.union(numbers)) for numbers in (NUMBERS[me], [3] * me, [])]
    vote = processes.Vote()
    said["votes"] = [vote.cast(number) for number in VOTES[me]]
    print("said", json.dumps(said))


def free_job():
    """A job number for which the port that JAX makes of it is free."""
    for job in range(os.getpid() % 4096, 8192):
        with socket.socket() as listener:
            if listener.connect_ex(("127.0.0.1", 61440 + job % 4096)):
                return job
    raise AssertionError


@pytest.fixture(scope="module")
def said():
    """By process, of two that SLURM would have started on this host with two devices each."""
    environment = os.environ | SLURM
    environment |= {"SLURM_JOB_ID": str(free_job()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__],
            env=environment | {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [json.loads(line.removeprefix("said")) for out in outputs for line in out.splitlines() if line[:4] == "said"]


def test_two_tasks_of_slurm_find_each_other(said):
    assert [(one["processes"], one["first"], one["several"]) for one in said] == [(2, True, True), (2, False, True)]


def test_first_process_decides_and_refuses_for_both(said):
    assert [one["decided"] for one in said] == [{"by": 0, "text": "größer " * 100}] * 2
    assert [one["asked"] for one in said] == [[0], []]
    assert [one["refused"] for one in said] == ["config.seed: got nothing"] * 2


def test_both_must_agree(said):
    assert [one["agree"] for one in said] == [[True, False, False, False]] * 2


def test_union_is_of_both(said):
    assert [one["union"] for one in said] == [[[0, 5, 7, 40_000], [3], []]] * 2


def test_votes_are_counted_at_the_same_step_in_both(said):
    answers = said[0]["votes"]
    assert answers == said[1]["votes"]
    delay = answers.index(1) - 2
    assert delay > 0
    largest = [max(votes) for votes in zip(*VOTES, strict=True)]
    assert answers == [0] * delay + largest[:-delay]


if __name__ == "__main__":
    work()
