"""The train step: the same update on any number of devices, and exactly what its pieces say."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from vicreg_jax.augment import make_views, recipe
from vicreg_jax.evaluation.diagnostics import embedding_std
from vicreg_jax.methods import VICReg
from vicreg_jax.models import Head, create_backbone
from vicreg_jax.optim import create_optimizer
from vicreg_jax.training import online_probe
from vicreg_jax.training.mesh import AXES, batch_sharding, replicated, state_shardings
from vicreg_jax.training.state import init_state
from vicreg_jax.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH = 16
METHOD = VICReg(create_backbone("resnet_tiny", stem="small", width=0.5), Head((32, 24)))
VIEWS = recipe("digits")
SCHEDULE = optax.linear_schedule(0.1, 0.5, 10)
OPTIMIZER = create_optimizer("sgd", SCHEDULE, weight_decay=1e-4)
STEP = make_train_step(
    method=METHOD,
    optimizer=OPTIMIZER,
    schedule=SCHEDULE,
    views=VIEWS,
    image_size=8,
    mean=(0.5,),
    std=(0.5,),
    monitor=lambda z: {"embedding_std": embedding_std(z)},
    is_logged=lambda step: step % 2 == 0,
    total_steps=10,
)
INIT = partial(init_state, method=METHOD, optimizer=OPTIMIZER, image_shape=(8, 8, 1), num_classes=10)


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    return {
        "image": random.integers(0, 256, (BATCH, 8, 8, 1), np.uint8),
        "aspect_ratio": np.ones(BATCH, np.float32),
        "label": random.integers(0, 10, BATCH).astype(np.int32),
    }


def run(data, fsdp, batch, steps=2):
    mesh = jax.make_mesh((data, fsdp), AXES, (AxisType.Auto,) * 2, devices=jax.devices()[: data * fsdp])
    shardings = state_shardings(mesh, jax.eval_shape(INIT, jax.random.key(0)), minimum_size=256)
    state = jax.jit(INIT, out_shardings=shardings)(jax.random.key(0))
    step = jax.jit(
        STEP,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )
    rows = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        rows.append(jax.device_get(metrics))
    return jax.device_get(state), rows


@pytest.fixture(scope="module")
def on_one_device(batch):
    return run(1, 1, batch)


@pytest.mark.parametrize(("data", "fsdp"), [(2, 1), (4, 1), (8, 1), (2, 4)])
def test_update_does_not_depend_on_the_devices(on_one_device, batch, data, fsdp):
    state, rows = run(data, fsdp, batch)
    expected_state, expected_rows = on_one_device
    for row, expected in zip(rows, expected_rows, strict=True):
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(row[name], value, rtol=2e-4, err_msg=name)
    for part in ("params", "batch_stats", "opt_state"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
            getattr(state, part),
            getattr(expected_state, part),
        )


def test_step_is_its_pieces(on_one_device, batch):
    """One SGD step by hand, from the views of the key (seed, step) to the parameters."""
    state = jax.jit(INIT)(jax.random.key(0))
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 0)
    views = make_views(key, batch["image"], batch["aspect_ratio"], VIEWS, image_size=8, mean=(0.5,), std=(0.5,))
    loss_and_gradient = jax.jit(jax.value_and_grad(METHOD.loss, has_aux=True))
    (loss, _), gradient = loss_and_gradient(state.params, state.batch_stats, {}, views, key)
    _, (first, _) = on_one_device
    np.testing.assert_allclose(first["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(first["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)
    np.testing.assert_allclose(first["learning_rate"], 0.1, rtol=1e-6)

    moved, _ = jax.jit(STEP)(state, batch)

    def expected(parameter, slope):
        decayed = slope + (1e-4 * parameter if parameter.ndim != 1 else 0)
        return parameter - 0.1 * decayed

    jax.tree.map(
        lambda a, p, g: np.testing.assert_allclose(a, expected(p, g), rtol=1e-4, atol=1e-5),
        moved.params,
        state.params,
        gradient,
    )
    assert int(moved.step) == 1


def test_monitor_runs_at_logged_steps_alone(on_one_device):
    _, (first, second) = on_one_device
    assert np.isnan(first["embedding_std"])
    assert np.isfinite(second["embedding_std"])


def test_views_differ_from_step_to_step(batch):
    state = jax.jit(INIT)(jax.random.key(0))
    step = jax.jit(STEP)
    _, metrics = step(state, batch)
    _, again = step(state, batch)
    _, later = step(state.replace(step=state.step + 1), batch)
    assert metrics["loss"] == again["loss"]
    assert metrics["loss"] != later["loss"]


def test_online_probe_learns_and_leaves_the_features_alone():
    features = jax.random.normal(jax.random.key(0), (64, 5))
    labels = jnp.argmax(features[:, :3], axis=1)
    probe = online_probe.init(5, 3)
    update = jax.jit(online_probe.update)
    accuracies = []
    for _ in range(300):
        probe, accuracy = update(probe, features, labels)
        accuracies.append(float(accuracy))
    assert accuracies[-1] > 0.9 > 0.5 > accuracies[0]
    slope = jax.grad(lambda f: jnp.sum(online_probe.update(probe, f, labels)[0].params["kernel"]))(features)
    assert not np.any(slope)
