import math
from functools import partial

import jax
import optax
import pytest
from jax.sharding import PartitionSpec

from configs import digits
from configs.imagenet import byol, vicreg
from vicreg_jax.optim import OptimizerOptions, create_optimizer
from vicreg_jax.tasks.pretrain.build import build_method
from vicreg_jax.training.mesh import batch_sharding, make_mesh, state_shardings
from vicreg_jax.training.state import init_state


@pytest.mark.parametrize(("data", "fsdp", "shape"), [(-1, 1, (8, 1)), (-1, 4, (2, 4)), (2, -1, (2, 4)), (4, 2, (4, 2))])
def test_mesh_takes_all_devices(data, fsdp, shape):
    assert tuple(make_mesh(data, fsdp).shape.values()) == shape


@pytest.mark.parametrize(("data", "fsdp"), [(3, 1), (-1, 3), (-1, -1), (8, 2)])
def test_mesh_that_does_not_fit_is_refused(data, fsdp):
    with pytest.raises(ValueError, match=r"^data times fsdp must be the number of devices, 8 .*; got data="):
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


def share_of_a_device(shapes, shardings):
    """Bytes on one device over bytes in all."""
    arrays = list(zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True))
    here = sum(math.prod(sharding.shard_shape(array.shape)) * array.dtype.itemsize for array, sharding in arrays)
    return here / sum(array.size * array.dtype.itemsize for array, _ in arrays)


@pytest.mark.parametrize(
    "get_config",
    [
        vicreg.get_config,
        pytest.param(byol.get_config, marks=pytest.mark.slow),
        pytest.param(partial(digits.get_config, "vicreg"), marks=pytest.mark.slow),
        partial(digits.get_config, "byol"),
    ],
    ids=["imagenet vicreg", "imagenet byol", "digits vicreg", "digits byol"],
)
def test_eight_devices_hold_an_eighth_each(get_config):
    """Parameters, the optimizer's state, and BYOL's target; nothing is allocated."""
    config = get_config()
    size = config.data.image_size
    init = partial(
        init_state,
        method=build_method(config),
        optimizer=create_optimizer(OptimizerOptions(config.optim.name), optax.constant_schedule(0.1)),
        image_shape=(size, size, 3),
        num_classes=10,
    )
    shapes = jax.eval_shape(init, jax.random.key(0))
    shardings = state_shardings(make_mesh(1, 8), shapes)
    parts = ["params", "opt_state"] + (["extra_state"] if config.method.name == "byol" else [])
    for part in parts:
        assert 0.125 <= share_of_a_device(getattr(shapes, part), getattr(shardings, part)) <= 0.15, part
