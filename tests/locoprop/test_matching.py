"""Matching losses against their potentials and transfer functions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.locoprop.reference import FUNCTIONS
from vicreg_jax.locoprop import TRANSFERS, matching_loss
from vicreg_jax.locoprop.transfers import KNOWN

POTENTIALS = {
    "identity": lambda a: a**2 / 2,
    "tanh": lambda a: np.log(np.cosh(a)),
    "sigmoid": lambda a: np.log1p(np.exp(a)),
    "softmax": lambda a: np.log(np.exp(a).sum(-1)),
    "relu": lambda a: np.maximum(a, 0) ** 2 / 2,
    "leaky_relu": lambda a: np.where(a > 0, a, 0.1 * a) ** 2 / 2,
}

value_and_gradient = jax.jit(jax.value_and_grad(matching_loss), static_argnums=2)


@pytest.mark.parametrize("transfer", TRANSFERS)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(shape=st.sampled_from([(5,), (2, 3, 4)]), scale=st.floats(1e-3, 20), seed=st.integers(0, 100))
def test_gradient_is_activation_minus_target(transfer, shape, scale, seed):
    a, target = np.random.default_rng(seed).normal(0, scale, (2, *shape))
    with jax.enable_x64(True):
        value, gradient = value_and_gradient(a, target, transfer)
    assert value.dtype == np.float64
    np.testing.assert_allclose(gradient, FUNCTIONS[transfer](a) - target, rtol=1e-12, atol=1e-13 * max(1, scale))
    terms = [np.abs(POTENTIALS[transfer](a)).sum(), np.abs(target * a).sum()]
    np.testing.assert_allclose(
        value, POTENTIALS[transfer](a).sum() - (target * a).sum(), rtol=0, atol=1e-13 * max(1, *terms)
    )


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_large_and_zero_pre_activations(transfer):
    for number in (1e4, -1e4, 0.0):
        a = np.array([[number, -number, 0.0]])
        with jax.enable_x64(True):
            value, gradient = value_and_gradient(a, np.ones_like(a), transfer)
        assert np.isfinite(value)
        np.testing.assert_allclose(gradient, FUNCTIONS[transfer](a) - 1, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_16_bit_inputs_are_summed_in_float32(dtype):
    a, target = jnp.full((100, 100), 100, dtype), jnp.zeros((100, 100), dtype)
    value, gradient = value_and_gradient(a, target, "relu")
    assert value.dtype == jnp.float32
    assert value == 5e7
    assert gradient.dtype == dtype


@pytest.mark.parametrize("transfer", KNOWN)
def test_detected_functions_equal_the_transfer_functions(transfer):
    a = np.random.default_rng(0).normal(0, 3, (5, 7))
    with jax.enable_x64(True):
        np.testing.assert_allclose(KNOWN[transfer](a), TRANSFERS[transfer].function(jnp.asarray(a)), rtol=1e-13)
    assert {*KNOWN, "identity"} == set(TRANSFERS)


def test_bad_arguments_are_named():
    a = np.ones((2, 3), np.float32)
    with pytest.raises(TypeError, match="pre_activation"):
        matching_loss(a.astype(int), a, "tanh")
    with pytest.raises(TypeError, match="target"):
        matching_loss(a, a.astype(int), "tanh")
    with pytest.raises(ValueError, match=r"target .* \(2, 3\); got shape \(3,\)"):
        matching_loss(a, a[0], "tanh")
    with pytest.raises(ValueError, match=r"transfer must be one of identity, .*; got 'gelu'"):
        matching_loss(a, a, "gelu")
