"""Training steps of a chain of dense layers, against NumPy in float64."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.locoprop.build import build
from tests.locoprop.reference import PITFALLS, Reference
from vicreg_jax.locoprop import Autoencoder, official_optimizer, reconstruction_loss

BATCH, FEATURES = 6, 8
TRANSFERS = ["tanh", "identity", "tanh", "sigmoid"]
RATES = [0.0, 0.03, 0.02, 0.04]
SETTINGS = {"activation_rate": 3.0, "local_steps": 4}


def rows(count, batch=BATCH):
    return np.random.default_rng(0).uniform(size=(count, batch, FEATURES))


MODEL = Autoencoder(widths=(7,), code=3)  # one hidden layer before the code and one after it


def autoencoder(**options):
    return build(MODEL, reconstruction_loss, **{"output_transfer": "sigmoid"} | options)


def to_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def start(train, batch=BATCH):
    """The first state in float64, on the host. The key is of the kind that compiles fastest."""
    batch = jnp.zeros((batch, FEATURES), jnp.float32)
    state = to_numpy(train.init(jax.random.key(0, impl="rbg"), (batch, batch)))
    return jax.tree.map(lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf, state)


@cache
def first_state(inner_optimizer=official_optimizer):
    """The first state of `autoencoder`, which depends on the inner optimizer alone."""
    return start(autoencoder(inner_optimizer=inner_optimizer))


def weights(params):
    return [[layer["kernel"], layer["bias"]] for _, layer in sorted(params.items())]


@jax.jit
@jax.grad
def gradients(params, inputs):
    return reconstruction_loss(MODEL.apply({"params": params}, inputs), inputs)


def assert_trees_close(actual, expected, rtol=1e-11):
    """The tolerance is relative to the largest entry of each leaf."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=rtol * max(1e-3, np.abs(e).max()))


def several_steps(**options):
    """The functions, the states before, between and after the steps, and the losses."""
    train = autoencoder(**SETTINGS, learning_rate=lambda step: jnp.asarray(RATES)[step], **options)
    states, losses = [first_state()], []
    for batch in rows(len(RATES)):
        state, metrics = train.step(states[-1], (batch, batch))
        states.append(state)
        losses.append(metrics["loss"])
    return train, *to_numpy((states, losses))


@pytest.fixture(scope="module")
def ours():
    with jax.enable_x64(True):
        return {
            ("m", "auto"): several_steps(variant="m"),
            ("s", "gram"): several_steps(variant="s", local_form="gram"),
        }


def reference_steps(first, variant, pitfall=None):
    reference = Reference(weights(first), TRANSFERS, variant, pitfall=pitfall, **SETTINGS)
    losses = [reference.step(batch, rate) for batch, rate in zip(rows(len(RATES)), RATES, strict=True)]
    return reference, losses


@pytest.mark.parametrize(("variant", "form"), [("m", "auto"), ("s", "gram")])
def test_steps_equal_the_reference(ours, variant, form):
    _, states, losses = ours[variant, form]
    reference, expected = reference_steps(states[0].params, variant)
    state = states[-1]
    assert_trees_close(weights(state.params), reference.weights)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    assert state.step == len(RATES)
    for index in range(len(TRANSFERS)):
        nu, momentum = [state.optimizer_state[f"Dense_{index}"][part] for part in (0, 2)]
        assert_trees_close([nu.nu["kernel"], nu.nu["bias"]], reference.mean_squares[index])
        # optax includes the sign of the update in the momentum.
        assert_trees_close([-momentum.trace["kernel"], -momentum.trace["bias"]], reference.momenta[index])


@pytest.mark.parametrize("pitfall", PITFALLS)
def test_wrong_readings_differ(ours, pitfall):
    _, states, _ = ours["m", "auto"]
    reference, _ = reference_steps(states[0].params, "m", pitfall)
    kernels = zip(weights(states[-1].params), reference.weights, strict=True)
    assert max(np.abs(a[0] - b[0]).max() for a, b in kernels) > 1e-6


@pytest.mark.parametrize(("variant", "activation_rate"), [("m", 10.0), ("s", 0.5)])
def test_first_local_step_is_backpropagation(variant, activation_rate):
    rates = {"activation_rate": activation_rate, "learning_rate": 0.01}
    train = autoencoder(variant=variant, local_steps=1, inner_optimizer=optax.sgd, **rates)
    batch = rows(1)[0]
    with jax.enable_x64(True):
        state = first_state(optax.sgd)
        after, metrics = train.step(state, (batch, batch))
        by_loss = gradients(state.params, batch)
    state, after, by_loss = to_numpy((state, after, by_loss))
    expected = jax.tree.map(lambda old, gradient: old - 0.01 * activation_rate * gradient, state.params, by_loss)
    assert_trees_close(after.params, expected, rtol=1e-13)
    assert float(metrics["learning_rate"]) == 0.01


@pytest.mark.parametrize("form", ["plain", "gram"])
def test_gradient_steps_in_closed_form(form):
    """W - e gamma sum_{j < T} (I - e C)^j X^T g for the squared loss, at a constant learning rate e."""
    batch, rate, steps = rows(1)[0], 0.02, 6
    train = autoencoder(
        variant="s",
        activation_rate=2.0,
        local_steps=steps,
        inner_optimizer=optax.sgd,
        learning_rate=rate,
        inner_schedule=lambda step, local_steps: 1.0,
        local_form=form,
    )
    with jax.enable_x64(True):
        state = first_state(optax.sgd)
        after, _ = train.step(state, (batch, batch))
        by_loss = gradients(state.params, batch)
    inputs = batch
    state, after, by_loss = to_numpy((state, after, by_loss))
    for (kernel, bias), (new_kernel, new_bias), (by_kernel, by_bias) in zip(
        *[weights(tree) for tree in (state.params, after.params, by_loss)], strict=True
    ):
        ones = np.concatenate([inputs, np.ones((BATCH, 1))], axis=1)
        matrix, gradient = np.eye(ones.shape[1]) - rate * ones.T @ ones, np.vstack([by_kernel, by_bias])
        series = sum(np.linalg.matrix_power(matrix, j) for j in range(steps))
        expected = np.vstack([kernel, bias]) - rate * 2.0 * series @ gradient
        np.testing.assert_allclose(np.vstack([new_kernel, new_bias]), expected, rtol=0, atol=1e-12)
        inputs = inputs @ kernel + bias
        if len(bias) == 7:
            inputs = np.tanh(inputs)


@pytest.mark.slow
def test_matching_loss_of_the_identity_is_the_squared_loss():
    batch, results, state = rows(1)[0], [], None
    with jax.enable_x64(True):
        for variant in ("m", "s"):
            train = build(
                Autoencoder(widths=(), code=5),
                reconstruction_loss,
                variant=variant,
                learning_rate=0.1,
                local_form="plain",
            )
            state = start(train) if state is None else state
            after, _ = train.step(state, (batch, batch))
            results.append(to_numpy(after))
        assert jnp.abs(after.params["Dense_0"]["kernel"] - state.params["Dense_0"]["kernel"]).max() > 0.1
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_learning_rate_zero_updates_only_the_mean_square(ours):
    assert RATES[0] == 0
    _, (before, after, *_), _ = ours["m", "auto"]
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    for state in after.optimizer_state.values():
        assert all(np.all(leaf != 1) for leaf in jax.tree.leaves(state[0]))
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(state[2]))


def test_states_on_the_host_resume_exactly(ours):
    """The states between the steps were copied to the host, as a checkpoint does."""
    train, states, losses = ours["m", "auto"]
    batch = rows(3)[2]
    with jax.enable_x64(True):
        after, metrics = train.step(states[2], (batch, batch))
    jax.tree.map(np.testing.assert_array_equal, to_numpy((after, metrics["loss"])), (states[3], losses[2]))


@pytest.fixture(scope="module")
def on_devices():
    """Three steps on a number of devices, in both forms: results in NumPy, the functions, and the first state."""
    kinds = (jax.sharding.AxisType.Auto,) * 2

    @cache
    def run(devices):
        mesh = jax.make_mesh((devices, 1), ("data", "fsdp"), axis_types=kinds, devices=jax.devices()[:devices])
        train = autoencoder(transfers={"Dense_0": "identity"}, local_form="gram", learning_rate=0.03, mesh=mesh)
        state = first = start(train, batch=8) if devices == 8 else first_state()
        for batch in rows(3, batch=8):
            state, metrics = train.step(state, (batch, batch))
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves((state, metrics)))
        return to_numpy((state, metrics)), train, first

    with jax.enable_x64(True):
        yield run


@pytest.mark.slow
@pytest.mark.parametrize("devices", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4)), 8])
def test_on_several_devices(on_devices, devices):
    result, train, first = on_devices(devices)
    assert_trees_close(result, on_devices(1)[0], rtol=1e-10)
    with pytest.raises(ValueError, match=f"partitioned {devices} times"):
        train.step(first, (rows(1)[0][:1], rows(1)[0][:1]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variant": "x"}, ValueError, "variant must be 'm'.*got 'x'"),
        ({"activation_rate": 0}, ValueError, "activation_rate must be positive"),
        ({"activation_rate": float("nan")}, ValueError, "activation_rate must be positive"),
        ({"local_steps": 0}, ValueError, "local_steps must be an integer"),
        ({"local_steps": 2.5}, ValueError, "local_steps must be an integer"),
        ({"inner_optimizer": optax.sgd(0.1)}, TypeError, "inner_optimizer must be a function"),
        ({"local_form": "fast"}, ValueError, "local_form must be one of auto, plain, gram"),
        (
            {"mesh": jax.sharding.AbstractMesh((8,), ("data",), (jax.sharding.AxisType.Explicit,))},
            ValueError,
            "mesh must",
        ),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        build(nn.Dense(2), reconstruction_loss, **options)


def test_bad_batches_and_losses_are_named():
    batch = rows(1)[0].astype(np.float32)
    with pytest.raises(ValueError, match="batch must be a pair"):
        autoencoder().init(jax.random.key(0), batch)
    train = build(nn.Dense(2), lambda outputs, targets: outputs)
    with pytest.raises(ValueError, match=r"loss must return a scalar, the mean over the batch; got shape \(6, 2\)"):
        jax.eval_shape(train.step, jax.eval_shape(train.init, jax.random.key(0), (batch, batch)), (batch, batch))
