"""Optimizers by name: single steps in NumPy, and which parameters are decayed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vicreg_jax.optim import OPTIMIZERS, OptimizerOptions, create_optimizer


def update_of(optimizer, params, gradients, steps=1):
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def params_and_gradients():
    params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full((2,), 2.0)}
    return params, jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.5), params)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_weights_are_decayed(name):
    params, gradients = params_and_gradients()
    gradients = jax.tree.map(jnp.zeros_like, gradients)
    params = update_of(create_optimizer(OptimizerOptions(name, weight_decay=0.5), 0.1), params, gradients)
    np.testing.assert_array_equal(params["bias"], 2.0)
    assert np.all(np.asarray(params["kernel"]) < 2.0)


def test_sgd_matches_pytorchs_rule():
    params, gradients = params_and_gradients()
    optimizer = create_optimizer(OptimizerOptions("sgd", weight_decay=0.5, momentum=0.8), lambda step: 0.1 * (step + 1))
    actual = update_of(optimizer, params, gradients, steps=2)
    weight, buffer = 2.0, 0.0
    bias, bias_buffer = 2.0, 0.0
    for rate in (0.1, 0.2):
        buffer = 0.8 * buffer + 0.5 + 0.5 * weight
        weight -= rate * buffer
        bias_buffer = 0.8 * bias_buffer + 0.5
        bias -= rate * bias_buffer
    np.testing.assert_allclose(actual["kernel"], weight, rtol=1e-6)
    np.testing.assert_allclose(actual["bias"], bias, rtol=1e-6)


def test_adamw_matches_the_papers_rule():
    params, gradients = params_and_gradients()
    optimizer = create_optimizer(OptimizerOptions("adamw", weight_decay=0.5, momentum=0.7), 0.1)
    actual = update_of(optimizer, params, gradients, steps=1)
    # In the first step, the bias-corrected moments are the gradient and its square.
    np.testing.assert_allclose(actual["kernel"], 2.0 - 0.1 * (1.0 + 0.5 * 2.0), rtol=1e-5)
    np.testing.assert_allclose(actual["bias"], 2.0 - 0.1, rtol=1e-5)
    state = optimizer.update(gradients, optimizer.init(params), params)[1]
    np.testing.assert_allclose(state[0].mu["bias"], 0.3 * 0.5, rtol=1e-6)


def test_momentum_and_trust_coefficient_reach_lars():
    params, gradients = params_and_gradients()
    optimizer = create_optimizer(OptimizerOptions("lars", weight_decay=0.0, momentum=0.5, trust_coefficient=0.1), 1.0)
    actual = update_of(optimizer, params, gradients, steps=2)
    np.testing.assert_allclose(actual["bias"], 2.0 - 0.5 - 0.75, rtol=1e-6)
    # The adapted gradient of a uniform kernel is 0.1 w: 2 -> 1.8, then the buffer is 0.5 * 0.2 + 0.18.
    np.testing.assert_allclose(actual["kernel"], 1.8 - 0.28, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "lasr"}, "name must be one of lars, sgd, adamw, adam; got 'lasr' (did you mean 'lars'?)"),
        ({"name": "x"}, "name must be one of lars, sgd, adamw, adam; got 'x'"),
        ({"weight_decay": -0.1}, "weight_decay must be a number of at least 0; got -0.1"),
        ({"momentum": 1.0}, "momentum must be a number from 0 to below 1; got 1.0"),
        ({"trust_coefficient": 0}, "trust_coefficient must be a number above 0; got 0"),
        ({"bias_lr_factor": float("nan")}, "bias_lr_factor must be a number above 0; got nan"),
    ],
)
def test_options_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        OptimizerOptions(**{"name": "lars", **fields})
