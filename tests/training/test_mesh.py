import jax
import pytest
from jax.sharding import PartitionSpec

from vicreg_jax.errors import InputError
from vicreg_jax.training.mesh import batch_sharding, make_mesh, state_shardings


@pytest.mark.parametrize(("data", "fsdp", "shape"), [(-1, 1, (8, 1)), (-1, 4, (2, 4)), (2, -1, (2, 4)), (4, 2, (4, 2))])
def test_mesh_takes_all_devices(data, fsdp, shape):
    assert tuple(make_mesh(data, fsdp).shape.values()) == shape


@pytest.mark.parametrize(("data", "fsdp"), [(3, 1), (-1, 3), (-1, -1), (8, 2)])
def test_mesh_that_does_not_fit_is_refused(data, fsdp):
    with pytest.raises(InputError, match=r"config\.mesh: got data=.* for 8 device"):
        make_mesh(data, fsdp)


def test_batch_is_split_over_every_device():
    sharding = batch_sharding(make_mesh(2, 4))
    assert sharding.shard_shape((16, 3)) == (2, 3)


def test_large_parameters_are_split_over_fsdp():
    mesh = make_mesh(2, 4)
    shapes = {
        "kernel": jax.ShapeDtypeStruct((256, 512), "float32"),
        "odd": jax.ShapeDtypeStruct((513, 1023), "float32"),
        "bias": jax.ShapeDtypeStruct((512,), "float32"),
    }
    shardings = state_shardings(mesh, shapes)
    assert shardings["kernel"].spec == PartitionSpec(None, "fsdp")
    assert shardings["odd"].is_fully_replicated
    assert shardings["bias"].is_fully_replicated
    assert state_shardings(make_mesh(8, 1), shapes)["kernel"].is_fully_replicated
