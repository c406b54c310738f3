"""Every test sees eight CPU devices, to test one, two, four and eight of them in one process."""

import fcntl
import gc
import hashlib
import os
import signal

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # benchmarks/correctness.py runs some tests on an accelerator

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
# The tests spend their time on compilation, not on the programs: with these flags it takes half as long. With an empty
# XLA_FLAGS the runs of launch.py, and tests with `usual_compilation`, are compiled as for users. XLA ends a process
# that gives it a flag it does not know, and newer versions have dropped some of these.
if jax.__version_info__ < (0, 11):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
        "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true",
    )
jax.config.update("jax_disable_most_optimizations", os.environ["JAX_PLATFORMS"] == "cpu")
# A background process ignores these signals, and so would its children, to which the tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Files whose tests start `launch.py`.
LAUNCHING = (
    "tests/faults/",
    "tests/tasks/test_locoprop_run.py",
    "tests/tasks/test_smt_run.py",
    "tests/tasks/test_supervised_run.py",
    "tests/test_launch.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file go to one worker, which compiles their programs once.

    So do all of the default tests that start `launch.py`: they share runs, and in two workers they would wait for each
    other. The slow ones take longer than what they share.
    """
    from xdist.scheduler import LoadScopeScheduling

    together = LAUNCHING if config.option.markexpr == "not slow" else ()

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "launch" if nodeid.startswith(together) else nodeid.split("::")[0]

    return ByFile(config, log)


def pytest_collection_finish():
    """The garbage collector leaves out what all tests share; tracing makes it run often."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def usual_compilation():
    """Compiles with optimizations, as XLA_FLAGS allows, for tests of compiled programs bit for bit."""
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # of programs compiled without
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.fixture
def strict_modes():
    """JAX's strict modes, all at once: programs that set them must be able to call every public function."""
    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.debug_nans(True),
        jax.debug_infs(True),
        jax.checking_leaks(),
    ):
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A directory that all workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def environment(shared):
    """Environment variables of the processes that tests start: programs are compiled once for all of them."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TFDS_DATA_DIR": str(shared / "data"),
        "JAX_COMPILATION_CACHE_DIR": str(shared / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture(scope="session")
def quick_environment(environment):
    """The same for runs that compile longer than they compute."""
    return environment | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@pytest.fixture(scope="session")
def undisturbed(environment, shared):
    """`undisturbed(*arguments, **options)`, as for `tests.runs.launch`: the workdir of such a run, and its output.

    Each run is made once per test session; tests must not write to its workdir.
    """
    from tests.runs import launch

    def run(*arguments, environment=environment, **options):
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
    """The undisturbed run of `tests.runs.SHORT`."""
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
