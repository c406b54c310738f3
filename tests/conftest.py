"""Every test sees eight CPU devices, so that one, two, four and eight are tested in one process."""

import fcntl
import hashlib
import os
import signal

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
# The tests' time goes into compiling, not into what was compiled. Runs of launch.py are compiled as for users.
jax.config.update("jax_disable_most_optimizations", True)
# What runs in the background ignores these, and what it starts would too: the tests of signals send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def usual_compilation():
    """For tests of what the compiler makes, bit for bit: with all of its optimizations."""
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # of programs that were compiled otherwise
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A directory that all workers of pytest-xdist have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def environment(shared):
    """Of the processes that tests start: data sets are prepared, and programs compiled, once for all of them."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TFDS_DATA_DIR": str(shared / "data"),
        "JAX_COMPILATION_CACHE_DIR": str(shared / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture(scope="session")
def undisturbed(environment, shared):
    """`undisturbed(*arguments, **options)`, as of `tests.runs.launch`: such a run's directory, and what it printed.

    Each is made once for all tests, which must not write to it.
    """
    from tests.runs import launch

    def run(*arguments, **options):
        home = shared / hashlib.sha256(repr((arguments, sorted(options.items()))).encode()).hexdigest()
        home.mkdir(exist_ok=True)
        printed = home / "stdout.txt"
        with (home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not printed.exists():
                result = launch(environment, home / "run", *arguments, **options)
                assert result.returncode == 0, result.stderr
                printed.write_text(result.stdout)
        return home / "run", printed.read_text()

    return run


@pytest.fixture(scope="session")
def finished(undisturbed):
    """The run of `tests.runs.SHORT` that nothing disturbed."""
    from tests.runs import SHORT

    return undisturbed(*SHORT)


@pytest.fixture
def listener():
    """A `Preemption`. After a signal it keeps listening until the process, or this test, ends."""
    from vicreg_jax.runtime.preemption import SIGNALS, Preemption

    def listening():
        wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakeup)
        return [signal.getsignal(number) for number in SIGNALS], wakeup

    before = listening()
    listener = Preemption()
    yield listener
    if listener.received:
        assert listening() != before
        for number, handler in zip(SIGNALS, before[0], strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(before[1])
        listener._wakeup.close()
        listener._thread.join()
    assert listening() == before
