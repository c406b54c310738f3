"""Checkpoints: saved on one mesh, restored bit for bit onto another; how damage is met is in tests/faults."""

import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from vicreg_jax.runtime import processes
from vicreg_jax.runtime.errors import InputError, ProcessLost, TrainingError
from vicreg_jax.training import online_probe
from vicreg_jax.training.checkpoint import Checkpoints, read_part
from vicreg_jax.training.mesh import AXES, state_shardings
from vicreg_jax.training.state import TrainState


def make_state(value):
    # So large, and so hard to compress, that most of the bytes on disk are its own.
    kernel = value + jax.random.normal(jax.random.key(0), (64, 48))
    params = {"backbone": {"kernel": kernel}, "head": {"kernel": jnp.full((8, 4), -value)}}
    return TrainState(
        step=jnp.int32(value),
        params=params,
        batch_stats={"backbone": {"mean": jnp.full(8, value)}, "head": {}},
        extra_state={"queue": jnp.full((6, 4), value), "queue_position": jnp.int32(value)},
        opt_state=(jnp.ones(3, jnp.bfloat16), {"count": jnp.int32(2), "mask": jnp.array([True, False])}),
        probe=online_probe.init(8, 3),
        skipped=jnp.int32(0),
        key=jax.random.key_data(jax.random.key(7)),
    )


SHAPES = jax.eval_shape(make_state, 3.0)


def shardings_of(shapes, data=1, fsdp=1):
    mesh = jax.make_mesh((data, fsdp), AXES, (AxisType.Auto,) * 2, devices=jax.devices()[: data * fsdp])
    return state_shardings(mesh, shapes, min_size=2)


def of_run(step):
    return {"seed": 0, "config": "abc"}


def save(directory, *steps, shardings=None, keep=2, identity=of_run):
    with Checkpoints(directory, keep=keep, identity=identity) as checkpoints:
        for step in steps:
            state = make_state(float(step))
            state = state if shardings is None else jax.device_put(state, shardings)
            checkpoints.save(step, state, {"seconds": step / 2})


def restore(directory, shapes=SHAPES, shardings=None, report=pytest.fail):
    with Checkpoints(directory, keep=2, identity=of_run) as checkpoints:
        return checkpoints.restore(shapes, shardings or shardings_of(shapes), report)


def steps_in(directory):
    return sorted(int(path.name) for path in directory.iterdir())


@pytest.fixture(scope="module")
def saved_on_eight(tmp_path_factory):
    """Three checkpoints, of which two are kept, of a run with the mesh data=8."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    save(directory, 1, 2, 3, shardings=shardings_of(SHAPES, 8, 1))
    return directory


@pytest.fixture
def copied(saved_on_eight, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(saved_on_eight, tmp_path / "checkpoints")


def flip_bits(checkpoint):
    """Damages the arrays, the largest file, in 15 places of 16 bytes: some bytes nobody reads."""
    path = max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    for part in range(1, 16):
        start = part * len(content) // 16
        content[start : start + 16] = bytes(byte ^ 1 for byte in content[start : start + 16])
    path.write_bytes(content)


@pytest.mark.parametrize(
    "shape", [(2, 4), *(pytest.param(shape, marks=pytest.mark.slow) for shape in [(1, 1), (8, 1)])]
)
def test_state_comes_back_bit_for_bit_onto_any_mesh(saved_on_eight, shape):
    assert steps_in(saved_on_eight) == [2, 3]
    step, state, record = restore(saved_on_eight, shardings=shardings_of(SHAPES, *shape))
    assert (step, record) == (3, {"seconds": 1.5})
    jax.tree.map(partial(np.testing.assert_array_equal, strict=True), state, make_state(3.0))
    assert state.params["backbone"]["kernel"].sharding.shard_shape((64, 48)) == (64 // shape[1], 48)
    assert len(state.step.sharding.device_set) == shape[0] * shape[1]


@pytest.mark.slow
def test_state_of_split_parameters_comes_back_onto_one_device(tmp_path):
    save(tmp_path / "checkpoints", 4, shardings=shardings_of(SHAPES, 2, 4))
    step, state, _ = restore(tmp_path / "checkpoints")
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, state, make_state(4.0))


def test_some_steps_are_kept_beside_the_newest(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=1, kept=(2, 9)) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(step, make_state(float(step)), {})
    assert steps_in(tmp_path / "checkpoints") == [2, 4]


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert restore(tmp_path / "checkpoints") is None


def test_damaged_checkpoint_is_put_aside_and_the_one_before_taken(copied):
    flip_bits(copied / "3")
    said = []
    step, state, record = restore(copied, report=said.append)
    assert (step, record) == (2, {"seconds": 1.0})
    jax.tree.map(np.testing.assert_array_equal, state, make_state(2.0))
    assert len(said) == 1
    assert said[0].startswith("the checkpoint of step 3 is damaged (")
    assert (steps_in(copied), steps_in(copied.parent / "damaged_checkpoints")) == ([2], [3])


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_checkpoint_under_the_name_of_another_step_is_put_aside(copied, how):
    how(copied / "3", copied / "30")
    said = []
    step, state, _ = restore(copied, report=said.append)
    kept = 2 if how is shutil.move else 3
    assert step == kept
    jax.tree.map(np.testing.assert_array_equal, state, make_state(float(kept)))
    assert said == ["the checkpoint of step 30 is that of step 3: moved to damaged_checkpoints/"]
    assert steps_in(copied.parent / "damaged_checkpoints") == [30]


@pytest.mark.parametrize(
    ("other", "says"), [({"seed": 5}, "seed 5, not 0"), ({"config": "xyz"}, "config xyz, not abc")]
)
def test_checkpoint_of_another_run_is_put_aside(copied, tmp_path, other, says):
    save(tmp_path / "other" / "checkpoints", 4, identity=lambda step: of_run(step) | other)
    shutil.copytree(tmp_path / "other" / "checkpoints" / "4", copied / "4")
    said = []
    step, state, _ = restore(copied, report=said.append)
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, state, make_state(3.0))
    assert said == [f"the checkpoint of step 4 is of another run ({says}): moved to damaged_checkpoints/"]
    assert (steps_in(copied), steps_in(copied.parent / "damaged_checkpoints")) == ([2, 3], [4])


def larger_kernel(state):
    return state.replace(params=state.params | {"head": {"kernel": jax.ShapeDtypeStruct((8, 5), jnp.float32)}})


OTHERS = {
    "another shape": larger_kernel,
    "another type": lambda state: state.replace(step=jax.ShapeDtypeStruct((), jnp.float32)),
    "an array less": lambda state: state.replace(extra_state={"queue": state.extra_state["queue"]}),
    "an array more": lambda state: state.replace(extra_state=state.extra_state | {"more": state.step}),
    "no probe": lambda state: state.replace(probe=None),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_state_of_another_structure_is_refused_and_left(saved_on_eight, other):
    with pytest.raises(InputError, match=r"^--workdir must hold a run of this version; got a checkpoint of step 3 "):
        restore(saved_on_eight, other(SHAPES))
    assert steps_in(saved_on_eight) == [2, 3]


def test_checkpoints_from_a_step_on_are_discarded(tmp_path):
    save(tmp_path / "checkpoints", 2, 4, 6, keep=3)
    with Checkpoints(tmp_path / "checkpoints", keep=3) as checkpoints:
        assert checkpoints.discard_from(5) == 4
        assert checkpoints.discard_from(1) is None
    assert steps_in(tmp_path / "checkpoints") == []


def test_place_that_cannot_be_written_is_said_in_a_line(tmp_path):
    (tmp_path / "checkpoints").write_text("no directory")
    with pytest.raises(TrainingError, match=r"^a checkpoint cannot be written to .*; stopped") as error:
        save(tmp_path / "checkpoints", 1)
    assert "\n" not in str(error.value)


def test_backbone_alone_is_read(saved_on_eight):
    variables = read_part(saved_on_eight, "backbone")
    assert variables.keys() == {"params", "batch_stats"}
    np.testing.assert_array_equal(variables["params"]["kernel"], make_state(3.0).params["backbone"]["kernel"])
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.full(8, 3))


DAMAGES = {
    "arrays": flip_bits,
    "record": lambda checkpoint: (checkpoint / "record" / "metadata").write_text("{}"),
    "no state": lambda checkpoint: shutil.rmtree(checkpoint / "state"),
    "name": lambda checkpoint: shutil.copytree(checkpoint.parent / "2", shutil.rmtree(checkpoint) or checkpoint),
    # Whole by itself, but not of the state that lies beside it.
    "another step's state": lambda checkpoint: shutil.copytree(
        checkpoint.parent / "2" / "state", shutil.rmtree(checkpoint / "state") or checkpoint / "state"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_backbone_is_passed_over(copied, damage, caplog):
    shutil.copytree(copied, copied.parent / "whole")
    damage(copied / "3")
    found = read_part(copied, "backbone")
    assert "checkpoints/3 is damaged (" in caplog.text
    assert (copied / "3").exists()
    shutil.rmtree(copied.parent / "whole" / "3")
    jax.tree.map(np.testing.assert_array_equal, found, read_part(copied.parent / "whole", "backbone"))


def test_only_damaged_backbones_are_refused(copied):
    for step in copied.iterdir():
        shutil.rmtree(step / "state")
    with pytest.raises(InputError, match=r"must hold a complete, intact checkpoint; got damaged ones, the") as error:
        read_part(copied, "backbone")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [False, True])
def test_no_checkpoint_is_said(tmp_path, make):
    if make:
        (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="must hold a complete, intact checkpoint; got none"):
        read_part(tmp_path / "checkpoints", "backbone")


def test_a_process_that_is_lost_while_saving_is_no_full_disk(tmp_path, monkeypatch):
    """Orbax gathers over the processes, and raises what the transport says as an error of its own."""
    said = "UNKNOWN: Gloo AllGather failed: [external/gloo/pair.cc:547] Connection closed by peer"

    def gather(*_, **__):
        raise ValueError(said)

    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", gather)
        with pytest.raises(TrainingError, match="cannot be written"):
            checkpoints.save(1, make_state(1.0), {})
        with monkeypatch.context() as several:
            several.setattr(processes, "are_several", lambda: True)
            with pytest.raises(ProcessLost, match=r"^another process of this run is gone \(UNKNOWN: Gloo"):
                checkpoints.save(1, make_state(1.0), {})
