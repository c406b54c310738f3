"""Signals: at once outside of the loop, noted within it, and the second one ends the process whatever it does."""

import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from vicreg_jax.runtime import preemption
from vicreg_jax.runtime.errors import Interrupted, Preempted
from vicreg_jax.runtime.preemption import end_run

LEAVING = {signal.SIGTERM: Preempted, signal.SIGINT: Interrupted}


@pytest.mark.parametrize("number", LEAVING)
def test_signal_raises_at_once(listener, number):
    with pytest.raises(LEAVING[number], match=r"^preempted: rerun the same command to resume"), listener:
        signal.raise_signal(number)


@pytest.mark.parametrize("number", LEAVING)
def test_deferred_signal_takes_effect_at_the_end(listener, number):
    reached = []

    def listen():
        with listener, listener.deferred():
            reached.append(listener.received)
            signal.raise_signal(number)
            reached.append(listener.received)

    with pytest.raises(LEAVING[number]):
        listen()
    assert reached == [0, number]


def test_deferred_code_that_raises_by_itself(listener):
    def fail():
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), listener, listener.deferred():
        fail()


def test_without_a_signal_all_is_as_before(listener):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # what other tests left open is not asked for here
    with listener:
        with listener.deferred():
            pass
        assert listener.received == 0
    gc.collect()  # a socket that is not closed would be a warning, and a warning an error


@pytest.fixture
def several(monkeypatch):
    """As one of several processes."""
    monkeypatch.setattr(preemption, "are_several", lambda: True)


def test_one_of_several_processes_does_not_leave_by_itself(several, listener):
    with listener:
        signal.raise_signal(signal.SIGTERM)
        with listener.deferred():
            pass
        assert listener.received == signal.SIGTERM


def test_code_that_handles_all_errors_does_not_handle_this(listener):
    with pytest.raises(Preempted), listener, suppress(Exception):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", LEAVING)
def test_leave(number):
    with pytest.raises(LEAVING[number], match=r"^step 3 is saved$"):
        end_run(number, "step 3 is saved")


STUCK = """
import ctypes
from vicreg_jax.runtime.preemption import Preemption

libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(128)  # zeros: an unlocked one
with Preemption() as asked, asked.deferred():
    libc.pthread_mutex_lock(mutex)
    print("ready", flush=True)
    libc.pthread_mutex_lock(mutex)  # for ever, and Python's handlers do not come up, as in a compiler
"""


ENDING = """
import signal, sys, time
from contextlib import contextmanager, suppress
from vicreg_jax.runtime.errors import Preempted
from vicreg_jax.runtime.preemption import Preemption

with suppress(Preempted), Preemption():
    signal.raise_signal(signal.SIGTERM)
print("ready", flush=True)
time.sleep(100)  # as what a run still does when it has left
"""


@contextmanager
def started(program):
    """A process, ready; it is gone afterwards."""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def assert_left(process, code):
    assert (
        process.communicate(timeout=10)[1]
        == "stopped at once; rerun the same command to resume from the last checkpoint\n"
    )
    assert process.returncode == code


@pytest.mark.skipif(sys.platform != "linux", reason="a mutex of zeros is Linux's")
@pytest.mark.parametrize(
    ("second", "code"), [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_second_signal_ends_a_stuck_process(second, code):
    with started(STUCK) as process:
        process.send_signal(signal.SIGTERM)
        # At the same time, as from a scheduler that signals every process: it counts once.
        process.send_signal(signal.SIGTERM)
        time.sleep(2 * preemption._SECONDS_OF_ONE)
        assert process.poll() is None
        process.send_signal(second)
        assert_left(process, code)


def test_second_signal_ends_a_process_that_is_leaving():
    with started(ENDING) as process:
        time.sleep(2 * preemption._SECONDS_OF_ONE)
        process.send_signal(signal.SIGTERM)
        assert_left(process, 75)
