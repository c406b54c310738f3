"""The official optimizers, schedules and network, and the baseline."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vicreg_jax.locoprop import (
    Autoencoder,
    backpropagation,
    create_optimizer,
    linear_to_quarter,
    local_flops,
    official_learning_rate,
    official_optimizer,
    reconstruction_loss,
)


def test_optimizer_equals_tensorflow_with_a_changing_rate():
    rng = np.random.default_rng(0)
    weights, ms, momentum = rng.normal(size=(5, 3)), np.ones((5, 3)), np.zeros((5, 3))
    with jax.enable_x64(True):
        params = jnp.asarray(weights)
        state = official_optimizer(0.0).init(params)

        @jax.jit
        def update(params, state, gradient, rate):
            updates, state = official_optimizer(rate).update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        for step in range(30):
            gradient, rate = rng.normal(size=(5, 3)), 0.01 * np.sin(step) ** 2
            ms = 0.9 * ms + 0.1 * gradient**2
            momentum = 0.999 * momentum + rate * gradient / np.sqrt(ms + 1e-5)
            weights = weights - momentum
            params, state = update(params, state, gradient, rate)
            np.testing.assert_allclose(params, weights, rtol=1e-13, atol=1e-13)


def test_learning_rates():
    steps = 7
    rate = jax.jit(official_learning_rate(steps))
    with jax.enable_x64(True):
        for epoch in range(99):
            expected = 1e-5 * (epoch / 5 if epoch < 5 else 1 - (epoch + 1 - 5) / 95)
            for step in (epoch * steps, epoch * steps + steps - 1):
                np.testing.assert_allclose(rate(step), expected, rtol=1e-12)
        assert rate(99 * steps) == rate(1000 * steps) == 0
    assert [linear_to_quarter(t, 4) for t in range(4)] == [1, 0.75, 0.5, 0.25]
    assert linear_to_quarter(9, 10) == 0.25


def test_the_official_autoencoder():
    rows = np.random.default_rng(1).integers(0, 2, (8, 784)).astype(np.float32)
    shapes = jax.eval_shape(Autoencoder().init, jax.random.key(0), rows)
    kernels = [shapes["params"][f"Dense_{index}"]["kernel"].shape for index in range(8)]
    assert kernels == [(784, 1000), (1000, 500), (500, 250), (250, 30), (30, 250), (250, 500), (500, 1000), (1000, 784)]
    model = Autoencoder(widths=(250,))
    variables = jax.jit(model.init)(jax.random.key(0, impl="rbg"), rows)
    for layer in variables["params"].values():
        fan_in, fan_out = layer["kernel"].shape
        assert np.abs(layer["kernel"]).max() == pytest.approx((6 / (fan_in + fan_out)) ** 0.5, rel=0.01)
        assert np.abs(layer["bias"]).max() == pytest.approx((3 / fan_out) ** 0.5, rel=0.1)
    # 784 log 2, plus a contribution of the random biases.
    assert 542 < jax.jit(lambda v, x: reconstruction_loss(model.apply(v, x), x))(variables, rows) < 549


def test_flops():
    plain, gram = local_flops(rows=1000, inputs=785, outputs=500, local_steps=10)
    assert plain == 10 * 2 * (2 * 1000 * 785 * 500)
    assert gram == 2 * 1000 * 785 * (785 + 500) + 10 * 2 * 785 * 785 * 500
    assert gram < plain
    few = local_flops(rows=10, inputs=785, outputs=500, local_steps=10)
    assert few.plain < few.gram


def reference_update(name, weights, gradients, rate, momentum=0.999, decay=0.9, epsilon=1e-5):
    """TensorFlow 1's optimizers in NumPy; Adam adds epsilon after the bias correction, as optax does."""
    moment, square = np.zeros_like(weights), np.zeros_like(weights)
    if name == "adagrad":
        square += epsilon
    for step, gradient in enumerate(gradients, 1):
        if name == "sgd":
            move = gradient
        elif name in ("momentum", "nesterov"):
            moment = momentum * moment + gradient
            move = moment if name == "momentum" else gradient + momentum * moment
        elif name == "adagrad":
            square = square + gradient**2
            move = gradient / np.sqrt(square)
        else:
            moment = momentum * moment + (1 - momentum) * gradient
            square = decay * square + (1 - decay) * gradient**2
            move = moment / (1 - momentum**step) / (np.sqrt(square / (1 - decay**step)) + epsilon)
        weights = weights - rate * move
    return weights


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adagrad", "adam"])
def test_optimizers_equal_the_reference(name):
    rng = np.random.default_rng(1)
    weights, gradients = rng.normal(size=(4, 3)), rng.normal(size=(20, 4, 3))
    with jax.enable_x64(True):
        params = jnp.asarray(weights)
        optimizer = create_optimizer(name)(0.01)
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(jnp.asarray(gradient), state, params)
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, reference_update(name, weights, gradients, 0.01), rtol=1e-12)


def test_unknown_optimizer():
    with pytest.raises(ValueError, match=r"name must be one of sgd, momentum.*; got 'lars'"):
        create_optimizer("lars")


def test_backpropagation_is_gradient_descent():
    model = Autoencoder(widths=(), code=3)
    rows = np.random.default_rng(0).uniform(size=(16, 12)).astype(np.float32)
    training = backpropagation(
        model, reconstruction_loss, optimizer=create_optimizer("sgd"), learning_rate=lambda step: 0.1 * (step + 1)
    )
    state = training.init(jax.random.key(1, impl="rbg"), (rows, rows))
    params = state.params

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(params):
        return reconstruction_loss(model.apply({"params": params}, rows), rows)

    for step in range(3):
        value, gradient = loss_and_gradient(params)
        params = jax.tree.map(lambda p, g, rate=0.1 * (step + 1): p - rate * g, params, gradient)
        state, metrics = training.step(state, (rows, rows))
        assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
        assert metrics["learning_rate"] == pytest.approx(0.1 * (step + 1))
        assert metrics["gradient_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-5)
    assert int(state.step) == 3
    for found, expected in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
