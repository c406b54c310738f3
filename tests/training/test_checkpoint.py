import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from vicreg_jax.errors import InputError
from vicreg_jax.training import online_probe
from vicreg_jax.training.checkpoint import Checkpoints, read_backbone
from vicreg_jax.training.mesh import AXES, state_shardings
from vicreg_jax.training.state import TrainState


def make_state(value):
    params = {"backbone": {"kernel": jnp.full((16, 8), value)}, "head": {"kernel": jnp.full((8, 4), -value)}}
    return TrainState(
        step=jnp.int32(value),
        params=params,
        batch_stats={"backbone": {"mean": jnp.full(8, value)}, "head": {}},
        carried={"queue": jnp.full((6, 4), value), "queue_position": jnp.int32(value)},
        opt_state=(jnp.ones(3), {"count": jnp.int32(2)}),
        probe=online_probe.init(8, 3),
        key=jax.random.key_data(jax.random.key(7)),
    )


def mesh(data, fsdp):
    return jax.make_mesh((data, fsdp), AXES, (AxisType.Auto,) * 2, devices=jax.devices()[: data * fsdp])


@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (2, 4)])
def test_state_comes_back_bit_for_bit_onto_any_mesh(tmp_path, shape):
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {"seconds": step / 2})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]

    shapes = jax.eval_shape(make_state, 3.0)
    shardings = state_shardings(mesh(*shape), shapes, minimum_size=2)
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        assert checkpoints.latest_step() == 3
        state = checkpoints.restore(3, shapes, shardings)
        assert checkpoints.read_record(3) == {"seconds": 1.5}
    jax.tree.map(np.testing.assert_array_equal, state, make_state(3))
    assert state.params["backbone"]["kernel"].sharding.shard_shape((16, 8)) == (16 // shape[1], 8)


def test_backbone_alone_is_read(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        checkpoints.save(4, make_state(4), {})
        checkpoints.save(9, make_state(9), {})
    variables = read_backbone(tmp_path / "checkpoints")
    np.testing.assert_array_equal(variables["params"]["kernel"], np.full((16, 8), 9))
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.full(8, 9))


@pytest.mark.parametrize("make", [False, True])
def test_no_checkpoint_is_said(tmp_path, make):
    if make:
        (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="there is no complete one in it"):
        read_backbone(tmp_path / "checkpoints")
