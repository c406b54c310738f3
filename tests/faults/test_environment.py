"""The environment of a run: variables that must not change its numbers, and machines that lack something."""

import os
import shutil
import sys

import pytest

from tests.runs import SHORT, assert_same_end, command, launch, run_command

LIMITED = """
import os, resource, sys
name, value = sys.argv[1].split("=")
resource.setrlimit(getattr(resource, name), (int(value),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "variable",
    [
        "JAX_ENABLE_X64=1",
        "JAX_DEBUG_NANS=1",
        "JAX_DEFAULT_PRNG_IMPL=rbg",
        "JAX_THREEFRY_PARTITIONABLE=0",
        "PYTHONWARNINGS=error",
    ],
)
def test_variable_changes_no_bit(finished, environment, tmp_path, variable):
    name, value = variable.split("=")
    result = launch(environment | {name: value}, tmp_path / "run", *SHORT)
    assert result.returncode == 0, result.stderr
    assert_same_end(tmp_path / "run", finished[0])


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "foo"])
def test_platform_that_is_not_there(environment, tmp_path, platform):
    result = launch(environment | {"JAX_PLATFORMS": platform}, tmp_path / "run", *SHORT)
    assert result.returncode == 2
    assert f"error: JAX_PLATFORMS must name platforms of this machine; got '{platform}'" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [1_500_000, 1_900_000])
def test_too_little_address_space(environment, tmp_path, kilobytes):
    limit = f"RLIMIT_AS={kilobytes * 2**10}"
    line = [sys.executable, "-c", LIMITED, limit, *command(tmp_path / "run", *SHORT)]
    result = run_command(environment, line)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ulimit -v must be at least ")
    assert result.stderr.count("\n") == 1


def as_nobody(*program):
    """A command as a user without an entry in /etc/passwd, whom limits bind but who may read and write all files."""
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("takes root and setpriv")
    rights = "+dac_override,+dac_read_search"
    user = ("--reuid=54321", "--regid=54321", "--clear-groups", f"--inh-caps={rights}", f"--ambient-caps={rights}")
    return ["setpriv", *user, *program]


@pytest.mark.slow
def test_too_few_threads(environment, tmp_path):
    line = as_nobody(sys.executable, "-c", LIMITED, "RLIMIT_NPROC=40", *command(tmp_path / "run", *SHORT))
    result = run_command(environment, line)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ulimit -u must leave room for ")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_user_without_a_home_and_without_an_entry(finished, environment, tmp_path):
    left_out = ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    bare = {name: value for name, value in environment.items() if name not in left_out}
    result = run_command(bare, as_nobody(*command(tmp_path / "run", *SHORT)))
    assert result.returncode == 0, result.stderr
    assert_same_end(tmp_path / "run", finished[0])
