"""The train step: the same update on any number of devices, and exactly what its pieces say."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import AxisType

from vicreg_jax.augment import Preprocessing, View, make_views, recipe
from vicreg_jax.evaluation.diagnostics import embedding_std
from vicreg_jax.methods import MoCo, VICReg
from vicreg_jax.models import Head
from vicreg_jax.optim import OptimizerOptions, create_optimizer
from vicreg_jax.training import online_probe
from vicreg_jax.training.mesh import AXES, batch_sharding, replicated, state_shardings
from vicreg_jax.training.plan import Plan
from vicreg_jax.training.state import init_state
from vicreg_jax.training.step import TrainStep

BATCH = 16


class Shallow(nn.Module):
    """Images to features by a convolution and a BatchNorm."""

    feature_dim: int = 16

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Conv(self.feature_dim, (3, 3))(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return jnp.mean(x, axis=(1, 2))


METHOD = VICReg(Shallow(), Head((32, 24)))
VIEWS = recipe("digits")
SCHEDULE = optax.linear_schedule(0.1, 0.5, 10)
OPTIMIZER = create_optimizer(OptimizerOptions("sgd", weight_decay=1e-4), SCHEDULE)
PREPROCESSING = Preprocessing(8, (0.5,), (0.5,))
PLAN = Plan(total_steps=10, steps_per_epoch=5, batch_size=BATCH, log_every=2, save_every=10)


def make_step(method=METHOD, optimizer=OPTIMIZER, views=VIEWS, **options):
    return TrainStep(
        method=method,
        optimizer=optimizer,
        schedule=SCHEDULE,
        views=views,
        preprocessing=PREPROCESSING,
        monitor=lambda z: {"embedding_std": embedding_std(z)},
        plan=PLAN,
        **options,
    )


STEP = make_step()
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
    shardings = state_shardings(mesh, jax.eval_shape(INIT, jax.random.key(0)), min_size=256)
    state = jax.jit(INIT, out_shardings=shardings)(jax.random.key(0))
    step = jax.jit(
        make_step(mesh=mesh),
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


@pytest.mark.parametrize(("data", "fsdp"), [*(pytest.param(n, 1, marks=pytest.mark.slow) for n in (2, 4, 8)), (2, 4)])
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


@pytest.mark.slow
def test_step_is_its_pieces(on_one_device, batch):
    """One SGD step by hand, from the views of the key (seed, step) to the parameters."""
    state = jax.jit(INIT)(jax.random.key(0))
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 0)
    views = make_views(key, batch["image"], batch["aspect_ratio"], VIEWS, PREPROCESSING)
    loss_and_gradient = jax.jit(jax.value_and_grad(METHOD.loss, has_aux=True))
    (loss, _), gradient = loss_and_gradient(state.params, state.batch_stats, {}, views, key)
    _, (first, _) = on_one_device
    np.testing.assert_allclose(first["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(first["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)
    np.testing.assert_allclose(first["learning_rate"], 0.1, rtol=1e-6)

    moved, _ = jax.jit(STEP)(state, batch)

    def change(slope, parameter):
        return -0.1 * (slope + (1e-4 * parameter if parameter.ndim != 1 else 0))

    changes = jax.tree.map(change, gradient, state.params)
    jax.tree.map(
        lambda a, p, c: np.testing.assert_allclose(a, p + c, rtol=1e-4, atol=1e-5), moved.params, state.params, changes
    )
    np.testing.assert_allclose(first["update_norm"], optax.tree.norm(changes), rtol=1e-4)
    assert int(moved.step) == 1


def test_monitor_runs_at_logged_steps_alone(on_one_device):
    _, (first, second) = on_one_device
    assert first["embedding_std"] == 0
    assert second["embedding_std"] > 0


@pytest.mark.slow
def test_views_differ_from_step_to_step(batch):
    state = jax.jit(INIT)(jax.random.key(0))
    step = jax.jit(STEP)
    _, metrics = step(state, batch)
    _, again = step(state, batch)
    _, later = step(state.replace(step=state.step + 1), batch)
    assert metrics["loss"] == again["loss"]
    assert metrics["loss"] != later["loss"]


class Faulty(MoCo):
    """Of white images the loss is NaN; of black ones the loss is finite, and one entry of its gradient infinite."""

    def loss(self, params, batch_stats, extra_state, views, key):
        loss, outputs = super().loss(params, batch_stats, extra_state, views, key)
        is_white, is_black = jnp.all(views[0] == 1), jnp.all(views[0] == -1)
        entry = params["head"]["dense_0"]["bias"][0]
        zero = jnp.where(is_black, entry - jax.lax.stop_gradient(entry), 1.0)
        return jnp.where(is_white, jnp.nan, loss) + jnp.sqrt(zero) - jnp.where(is_black, 0.0, 1.0), outputs


@pytest.mark.slow
@pytest.mark.parametrize("optimizer_name", ["adamw", "lars"])
def test_update_that_is_not_finite_is_left_out(batch, optimizer_name):
    """All but the step and the optimizer's counters, by which the learning rate goes, is as it was before."""
    method = Faulty(Shallow(), Head((5, 4)), queue_size=2 * BATCH, momentum=0.5)
    optimizer = create_optimizer(OptimizerOptions(optimizer_name, weight_decay=1e-4), SCHEDULE)
    plain = View(crop_area=(1.0, 1.0), flip_probability=0.0, jitter_probability=0.0, grayscale_probability=0.0)
    init = partial(init_state, method=method, optimizer=optimizer, image_shape=(8, 8, 1), num_classes=10)
    step = jax.jit(make_step(method, optimizer, (plain, plain), skip_nonfinite=True))
    states, rows = [jax.jit(init)(jax.random.key(0))], []
    white, black = (batch | {"image": np.full_like(batch["image"], value)} for value in (255, 0))
    for of_step in (batch, white, black, batch):
        state, metrics = step(states[-1], of_step)
        states.append(state)
        rows.append(metrics)

    assert [int(row["skipped_updates"]) for row in rows] == [0, 1, 2, 2]
    assert [bool(np.isfinite(row["loss"])) for row in rows] == [True, False, True, True]
    assert not np.isfinite(rows[2]["gradient_norm"])
    np.testing.assert_allclose([row["learning_rate"] for row in rows], [SCHEDULE(index) for index in range(4)])
    for skipped in (1, 2):
        expected = states[1].replace(
            step=1 + skipped,
            skipped=skipped,
            opt_state=jax.tree.map(
                lambda leaf, skipped=skipped: leaf + skipped if leaf.dtype == jnp.int32 else leaf, states[1].opt_state
            ),
        )
        jax.tree.map(np.testing.assert_array_equal, states[1 + skipped], expected)
    counters = [leaf for leaf in jax.tree.leaves(states[1].opt_state) if leaf.dtype == jnp.int32]
    assert counters
    assert set(map(int, counters)) == {1}
    # The updates before and after are made.
    for before, after in ((states[0], states[1]), (states[3], states[4])):
        assert int(after.extra_state["queue_position"]) != int(before.extra_state["queue_position"])
        for what in ("params", "batch_stats", "extra_state", "probe"):
            pairs = zip(*(jax.tree.leaves(getattr(state, what)) for state in (before, after)), strict=True)
            assert any(np.any(a != b) for a, b in pairs), what
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(after))


def test_without_leave_nothing_is_left_out(on_one_device):
    state, rows = on_one_device
    assert all("skipped_updates" not in row for row in rows)
    assert int(state.skipped) == 0


def test_online_probe_learns_and_leaves_the_features_alone():
    features = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    labels = np.argmax(features[:, :3], axis=1)
    probe = online_probe.init(5, 3)
    update = jax.jit(online_probe.update)
    accuracies = []
    for _ in range(300):
        probe, accuracy = update(probe, features, labels)
        accuracies.append(float(accuracy))
    assert accuracies[-1] > 0.9 > 0.5 > accuracies[0]
    slope = jax.jit(jax.grad(lambda f: jnp.sum(online_probe.update(probe, f, labels)[0].params["kernel"])))(features)
    assert not np.any(slope)
