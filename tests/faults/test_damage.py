"""A damaged checkpoint is quarantined, and the run resumes from the one before."""

import gc
import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import JaxRuntimeError

from tests.runs import SHORT, Run, assert_same_end, launch, steps_saved
from vicreg_jax.runtime.errors import InputError, Preempted, TrainingError
from vicreg_jax.training import online_probe
from vicreg_jax.training.checkpoint import Checkpoints
from vicreg_jax.training.mesh import make_mesh, state_shardings
from vicreg_jax.training.state import TrainState

# Orbax, when one array cannot be read, leaves the reading of the others to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected():
    yield
    gc.collect()


def make_state(step):
    """Arrays of all the types that a state has, other ones at every step; some of them too large to be inlined."""
    key = jax.random.key(step)
    return TrainState(
        step=jnp.int32(step),
        params={"backbone": {"kernel": jax.random.normal(key, (64, 48))}, "head": {"bias": jnp.zeros(8)}},
        batch_stats={"backbone": {"mean": jax.random.normal(key, (48,), jnp.bfloat16)}},
        extra_state={"queue": jax.random.normal(key, (32, 16)), "queue_position": jnp.int32(step)},
        opt_state=({"count": jnp.int32(step)}, jnp.arange(5) > step),
        probe=online_probe.init(8, 3),
        skipped=jnp.int32(0),
        key=jax.random.key_data(key),
    )


def make_record(step):
    return {"seconds": step / 2, "data": {"training images": 50}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with the checkpoints of steps 1 and 2."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(directory, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), make_record(step))
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(saved, tmp_path / "checkpoints")


def restore(directory):
    """The step that was restored, or None, and what was reported; what is restored must be what was saved."""
    reports = []
    shapes = jax.eval_shape(lambda: make_state(0))
    with Checkpoints(directory, keep=2) as checkpoints:
        restored = checkpoints.restore(shapes, state_shardings(make_mesh(), shapes), reports.append)
    if restored is None:
        return None, reports
    step, state, record = restored
    jax.tree.map(np.testing.assert_array_equal, state, make_state(step))
    assert record == make_record(step)
    return step, reports


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def data_of(checkpoint):
    """The largest file: the arrays."""
    return max(files_of(checkpoint), key=lambda path: path.stat().st_size)


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def edit_record(checkpoint, old, new):
    path = checkpoint / "record" / "metadata"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def empty(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


DAMAGES = {
    "bit flipped in the arrays": lambda checkpoint: flip(data_of(checkpoint), 4001),
    "manifest removed": lambda checkpoint: (checkpoint / "state" / "manifest.ocdbt").unlink(),
    "record of another value": lambda checkpoint: edit_record(checkpoint, '"seconds": 1', '"seconds": 3'),
}
MORE_DAMAGES = {
    "arrays cut short": lambda checkpoint: truncate(data_of(checkpoint), 1000),
    "directory emptied": empty,
    "arrays removed": lambda checkpoint: data_of(checkpoint).unlink(),
    "arrays emptied": lambda checkpoint: truncate(data_of(checkpoint), 0),
    "arrays overwritten with zeros": lambda checkpoint: data_of(checkpoint).write_bytes(
        bytes(data_of(checkpoint).stat().st_size)
    ),
    "state removed": lambda checkpoint: shutil.rmtree(checkpoint / "state"),
    "record removed": lambda checkpoint: shutil.rmtree(checkpoint / "record"),
    "record no JSON": lambda checkpoint: (checkpoint / "record" / "metadata").write_text("{"),
    "record no object": lambda checkpoint: (checkpoint / "record" / "metadata").write_text("[1]"),
    "record emptied": lambda checkpoint: truncate(checkpoint / "record" / "metadata", 0),
    "record without a field": lambda checkpoint: edit_record(checkpoint, '"checksum"', '"check"'),
    "fingerprint of another value": lambda checkpoint: edit_record(checkpoint, '"fingerprint": [', '"fingerprint": [1'),
    "state of the step before": lambda checkpoint: (
        shutil.rmtree(checkpoint / "state"),
        shutil.copytree(checkpoint.parent / "1" / "state", checkpoint / "state"),
    ),
    "record of the step before": lambda checkpoint: shutil.copy(
        checkpoint.parent / "1" / "record" / "metadata", checkpoint / "record" / "metadata"
    ),
}


@pytest.mark.parametrize(
    "damage",
    [
        *(pytest.param(damage, id=name) for name, damage in DAMAGES.items()),
        *(pytest.param(damage, id=name, marks=pytest.mark.slow) for name, damage in MORE_DAMAGES.items()),
    ],
)
def test_damaged_checkpoint_is_put_aside_and_the_one_before_taken(directory, damage):
    damage(directory / "2")
    step, reports = restore(directory)
    assert step == 1
    assert len(reports) == 1
    says = reports[0].removeprefix("the checkpoint of step 2 is ")
    assert says.startswith(("damaged (", "that of step 1:"))
    assert "\n" not in reports[0]
    assert (directory.parent / "damaged_checkpoints" / "2").exists()
    assert steps_saved(directory.parent) == [1]
    # The next start finds nothing to complain of, and the step can be saved again.
    assert restore(directory) == (1, [])
    with Checkpoints(directory, keep=2) as checkpoints:
        checkpoints.save(2, make_state(2), make_record(2))
    assert restore(directory) == (2, [])


def test_all_damaged(directory):
    for step in (1, 2):
        DAMAGES["bit flipped in the arrays"](directory / str(step))
    step, reports = restore(directory)
    assert step is None
    assert [report.split()[4] for report in reports] == ["2", "1"]


def test_the_same_step_damaged_twice(directory):
    for _ in range(2):
        MORE_DAMAGES["arrays cut short"](directory / "2")
        assert restore(directory)[0] == 1
        with Checkpoints(directory, keep=2) as checkpoints:
            checkpoints.save(2, make_state(2), make_record(2))
    assert len(list((directory.parent / "damaged_checkpoints").iterdir())) == 2


@pytest.mark.slow
def test_any_damage_to_any_file_is_found_or_does_no_harm(saved, tmp_path):
    """What is restored is what was saved, whichever of the files is cut short, altered or gone."""
    choose = random.Random(0)
    taken = []
    for file in files_of(saved / "2"):
        size = file.stat().st_size
        sizes = {0, size // 2, size - 1} if size else set()
        bits = choose.sample(range(8 * size), min(8 * size, 24))
        damages = [lambda path: path.unlink()]
        damages += [lambda path, size=size: truncate(path, size) for size in sizes]
        damages += [lambda path, bit=bit: flip(path, bit) for bit in bits]
        for damage in damages:
            copy = shutil.copytree(saved, tmp_path / "run" / "checkpoints")
            damage(copy / file.relative_to(saved))
            taken.append((str(file.relative_to(saved / "2")), restore(copy)[0]))
            shutil.rmtree(copy.parent)
    assert {step for _, step in taken} <= {1, 2}
    print(len(taken), "damages,", sum(step == 1 for _, step in taken), "found")


@pytest.mark.parametrize(
    "error", [Preempted("asked"), KeyboardInterrupt(), MemoryError(), JaxRuntimeError("RESOURCE_EXHAUSTED")], ids=repr
)
@pytest.mark.parametrize("part", [pytest.param("_read_record", marks=pytest.mark.slow), "_read_state"])
def test_what_is_no_damage(directory, monkeypatch, part, error):
    """A signal comes anywhere, and memory may be short: that says nothing about the files."""

    def interrupted(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, part, interrupted)
        with pytest.raises(type(error)):
            restore(directory)
    assert restore(directory) == (2, [])


def test_checkpoint_of_another_structure(directory):
    with Checkpoints(directory, keep=2) as checkpoints:
        other = make_state(2).replace(extra_state={})
        shapes = jax.eval_shape(lambda: other)
        with pytest.raises(InputError, match="got a checkpoint of step 2 that was written by an incompatible version"):
            checkpoints.restore(shapes, state_shardings(make_mesh(), shapes), pytest.fail)
    assert steps_saved(directory.parent) == [1, 2]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
@pytest.mark.parametrize("part", ["state", "record"])
def test_checkpoint_that_may_not_be_read_is_not_damaged(directory, part):
    path = directory / "2" / part
    path.chmod(0)
    try:
        with pytest.raises(TrainingError, match="cannot be read"):
            restore(directory)
    finally:
        path.chmod(0o700)
    assert restore(directory) == (2, [])


@pytest.mark.slow
@pytest.mark.parametrize("how_many", [1, 2])
def test_run_goes_on_from_the_one_before_or_from_the_start(finished, environment, tmp_path, how_many):
    workdir = tmp_path / "run"
    with Run(environment, workdir, *SHORT) as run:
        assert run.reaches(lambda: len(steps_saved(workdir)) == 2), run.said
        run.kill()
    before, *damaged = steps_saved(workdir) if how_many == 1 else [0, *steps_saved(workdir)]
    for step in damaged:
        DAMAGES["bit flipped in the arrays"](workdir / "checkpoints" / str(step))
    result = launch(environment, workdir, *SHORT)
    assert result.returncode == 0, result.stderr
    for step in damaged:
        assert f"the checkpoint of step {step} is damaged (" in result.stdout
    assert {path.name for path in (workdir / "damaged_checkpoints").iterdir()} == set(map(str, damaged))
    assert (f"resuming from step {before}\n" in result.stdout) == (before > 0)
    assert_same_end(workdir, finished[0])
