"""Limits of the machine are said in a line; what a run must not take from the environment is pinned."""

import resource
import threading

import jax
import pytest

from vicreg_jax.runtime import coordination, machine
from vicreg_jax.runtime.errors import InputError, ProcessLost


def test_too_little_address_space_is_refused(monkeypatch):
    for limit in (resource.RLIM_INFINITY, 3 * 2**30):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: (limit, limit))
        machine.check_limits()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1_900_000 * 2**10, resource.RLIM_INFINITY))
    with pytest.raises(
        InputError,
        match=r"^ulimit -v must be at least 2621440 KiB of address space, or unlimited; got 1900000$",
    ):
        machine.check_limits()


def test_too_few_threads_are_refused(monkeypatch):
    started = []

    class Limited(threading.Thread):
        def start(self):
            if len(started) == 10:
                raise RuntimeError("can't start new thread")
            super().start()
            started.append(self)

    monkeypatch.setattr(machine, "MIN_THREADS", 30)
    monkeypatch.setattr(threading, "Thread", Limited)
    with pytest.raises(InputError, match=r"^ulimit -u must leave room for 30 more threads .*; got room for 10$"):
        machine.check_limits()
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize(
    ("error", "several", "kind", "says"),
    [
        (RuntimeError("Unable to initialize backend 'foo'"), False, InputError, r"^JAX_PLATFORMS must name .*'foo'"),
        (AssertionError(), False, InputError, r"^JAX_PLATFORMS must name platforms of this machine; got .*\("),
        (RuntimeError("DEADLINE_EXCEEDED: topology"), True, ProcessLost, r"^timed out waiting for the devices"),
    ],
)
def test_devices_that_are_not_there(monkeypatch, error, several, kind, says):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setattr(machine, "is_connected", lambda: several)
    with pytest.raises(kind, match=says):
        machine.check_devices()


def test_one_process_is_not_connected():
    assert not coordination.is_connected()
    assert coordination.combine(3, sum_of) == 3


def sum_of(said):
    return sum(said)
