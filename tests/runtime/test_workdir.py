"""The directory of a run: one run at a time holds it, for as long as its process lives; its files are whole."""

import errno
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from vicreg_jax.config import base_config, differences, to_json
from vicreg_jax.runtime import workdir
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.workdir import held_workdir, read_json, saved_steps, write_config, write_json

FIELDS = to_json(base_config())

# Holds the directory until it is killed, with a child such as a worker process that decodes.
HOLDER = """
import os, signal, sys
from pathlib import Path
from vicreg_jax.config import base_config, differences, to_json
from vicreg_jax.runtime.workdir import held_workdir

with held_workdir(Path(sys.argv[1]), to_json(base_config()), differences):
    child = os.fork()
    if child:
        print(child, flush=True)
    signal.pause()
"""


@contextmanager
def holder_of(path):
    """A process that holds the directory, and the id of its child; both are gone afterwards."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # JAX warns of any fork
        text=True,
    )
    with holder:
        child = int(holder.stdout.readline())
        try:
            yield holder, child
        finally:
            holder.kill()
            os.kill(child, signal.SIGKILL)


def is_alive(process):
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def test_second_run_is_refused_until_the_first_is_dead(tmp_path):
    path = tmp_path / "run"
    with holder_of(path) as (holder, child):
        said = rf"^--workdir must not be in use by another run; got '{path}', held by process {holder.pid} on \S+ since"
        for _ in range(2):
            with pytest.raises(InputError, match=said), held_workdir(path, FIELDS, differences):
                pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert is_alive(child)
        with held_workdir(path, FIELDS, differences):
            assert f"process {os.getpid()} on " in (path / ".lock").read_text()


def locked_by_another(path):
    """Whether another process would be refused; asked in one, for the system does not refuse this one itself."""
    ask = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    asked = subprocess.run([sys.executable, "-c", ask, str(path)], stderr=subprocess.PIPE, text=True)
    assert asked.returncode == 0 or "BlockingIOError" in asked.stderr
    return asked.returncode != 0


def test_it_is_given_back_at_the_end(tmp_path):
    def fail():
        with held_workdir(tmp_path, FIELDS, differences):
            assert locked_by_another(tmp_path / ".lock")
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert not locked_by_another(tmp_path / ".lock")


def test_line_of_the_holder_before_is_overwritten_as_a_whole(tmp_path):
    (tmp_path / ".lock").write_text("a line of an earlier holder " * 20)
    with held_workdir(tmp_path, FIELDS, differences):
        line = (tmp_path / ".lock").read_text()
        assert line.startswith(f"process {os.getpid()} on ")
        assert "earlier" not in line


@pytest.mark.parametrize("saved", ["checkpoints/30/", "summary.json"])
def test_directory_of_another_config_is_refused_and_not_held(tmp_path, saved):
    write_config(tmp_path, to_json(base_config("simclr")))
    if saved.endswith("/"):
        (tmp_path / saved).mkdir(parents=True)
    else:
        (tmp_path / saved).write_text("{}")
    with pytest.raises(InputError, match="or hold a run of this config"), held_workdir(tmp_path, FIELDS, differences):
        pass
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("unsaved", ["", "checkpoints/", "checkpoints/30.orbax-checkpoint-tmp-5/", "metrics.jsonl"])
def test_run_without_a_complete_checkpoint_binds_nobody(tmp_path, unsaved):
    write_config(tmp_path, to_json(base_config("simclr")))
    if unsaved.endswith("/"):
        (tmp_path / unsaved).mkdir(parents=True)
    elif unsaved:
        (tmp_path / unsaved).write_text('{"step": 10}')
    with held_workdir(tmp_path, FIELDS, differences):
        pass


def test_saved_steps(tmp_path):
    assert saved_steps(tmp_path / "checkpoints") == []
    for name in ("4", "30", "20.orbax-checkpoint-tmp-5", "notes"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "7").write_text("no directory")
    assert saved_steps(tmp_path / "checkpoints") == [4, 30]


def test_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with caplog.at_level(logging.WARNING), held_workdir(tmp_path, FIELDS, differences):
        assert f"process {os.getpid()}" in (tmp_path / ".lock").read_text()
    assert ".lock cannot be locked ([Errno" in caplog.text


@pytest.mark.parametrize("sees", [None, "process 1 on another since yesterday"])
def test_directory_that_not_all_processes_share_is_refused(tmp_path, monkeypatch, sees):
    """As the second process, to which the first says what stands in the lock."""
    monkeypatch.setattr(workdir, "is_first", lambda: False)
    monkeypatch.setattr(workdir, "decide", lambda choose: "process 1 on here since now")
    if sees is not None:
        (tmp_path / ".lock").write_text(sees)
    with (
        pytest.raises(InputError, match=r"^--workdir must be one directory that all hosts share; got"),
        held_workdir(tmp_path, {}, differences),
    ):
        pass
    (tmp_path / ".lock").write_text("process 1 on here since now")
    with held_workdir(tmp_path, {}, differences):
        pass


def test_json_is_written_whole_and_read_back(tmp_path):
    path = tmp_path / "summary.json"
    assert read_json(path) is None
    write_json(path, {"loss": 1.5})
    with pytest.raises(TypeError):
        write_json(path, {"loss": 2.5, "of": object()})
    assert read_json(path) == {"loss": 1.5}


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
def test_json_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "summary.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"summary\.json must be") as error:
        read_json(path)
    assert "\n" not in str(error.value)


def test_config_is_written_with_versions(tmp_path):
    write_config(tmp_path, FIELDS)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["method"]["name"] == "vicreg"
    assert {"vicreg_jax", "python", "jax", "orbax-checkpoint"} <= written["versions"].keys()
