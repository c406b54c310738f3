"""The memory estimate before a run, and the errors of the device runtime."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from vicreg_jax.runtime import processes
from vicreg_jax.runtime.errors import Preempted, TrainingError
from vicreg_jax.training import memory
from vicreg_jax.training.memory import explained_device_errors, memory_estimate

MIB = 2**20
REMEDY = "Lower the batch size."


def compiled(inputs, temporary):
    """A stand-in for a compiled step that needs so many MiB."""
    analysis = SimpleNamespace(argument_size_in_bytes=inputs * MIB, temp_size_in_bytes=temporary * MIB)
    return SimpleNamespace(memory_analysis=lambda: analysis)


@pytest.mark.parametrize(("there", "fits"), [(60, True), (59, False)])
def test_what_is_needed_is_said_beside_what_is_there(monkeypatch, there, fits):
    monkeypatch.setattr(memory, "_device_memory", lambda: there * MIB)
    said, does_fit = memory_estimate(compiled(10, 30), 20 * MIB, REMEDY)
    assert does_fit == fits
    assert said.startswith("60 MiB needed per device (state and batch 10, activations and gradients 30, data 20)")
    assert f" {there} MiB" in said
    assert (REMEDY in said) == (not fits)
    assert "\n" not in said


def test_numbers_are_those_of_the_compiled_step(monkeypatch):
    monkeypatch.setattr(memory, "_device_memory", lambda: 100 * MIB)
    step = jax.jit(lambda x: jnp.sort(x * 2)[::2].sum())
    said, fits = memory_estimate(step.lower(jnp.zeros(2**20)).compile(), 0, REMEDY)
    assert fits
    assert "state and batch 4," in said


def test_memory_of_a_device_is_its_own_limit_or_its_share_of_the_hosts(monkeypatch):
    whole = memory._device_memory() * jax.local_device_count()
    assert 2**28 < whole < 2**50
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 123})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert memory._device_memory() == 123


FULL = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9.87G.\nBufferAssignment OOM Debugging.\n"
    + 50 * "more "
)
LOST = "UNAVAILABLE: Gloo all-reduce failed: Connection closed by peer\nmore"


@pytest.mark.parametrize(
    ("said", "several", "error", "line"),
    [
        (FULL, False, TrainingError, r"the devices are out of memory\. Lower the batch size\. .*9\.87G"),
        (FULL, True, TrainingError, r"the devices are out of memory"),
        ("INTERNAL: out of memory", False, TrainingError, r"the devices are out of memory"),
        (
            LOST,
            True,
            Preempted,
            r"another process of this run is gone \(UNAVAILABLE: .*by peer\); rerun the same command",
        ),
        (LOST, False, jax.errors.JaxRuntimeError, r"UNAVAILABLE"),
        ("INVALID_ARGUMENT: shapes", True, jax.errors.JaxRuntimeError, r"INVALID_ARGUMENT"),
    ],
    ids=["full", "full in one of several", "full, in other words", "lost", "lost, alone", "another"],
)
def test_errors_of_the_runtime_are_said_in_a_line(monkeypatch, said, several, error, line):
    monkeypatch.setattr(processes, "are_several", lambda: several)
    with pytest.raises(error, match=rf"^{line}") as raised, explained_device_errors(REMEDY):
        raise jax.errors.JaxRuntimeError(said)
    assert error is jax.errors.JaxRuntimeError or "\n" not in str(raised.value)


def test_a_lost_process_may_come_as_a_value_error(monkeypatch):
    """As `jax.jit` raises it where its compiled program is called again."""
    monkeypatch.setattr(processes, "are_several", lambda: True)
    said = "UNKNOWN: Gloo AllGather failed: [external/gloo/pair.cc:538] Read error: Connection reset by peer"
    with pytest.raises(Preempted, match=r"^another process of this run is gone"), explained_device_errors(REMEDY):
        raise ValueError(said)
    with pytest.raises(ValueError, match=r"^connection must be"), explained_device_errors(REMEDY):
        raise ValueError("connection must be a number; got 'x'")


def test_other_errors_pass():
    with pytest.raises(ValueError, match="another"), explained_device_errors(REMEDY):
        raise ValueError("another")
