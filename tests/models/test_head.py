"""The expander against NumPy, its initialisation, its precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.models import Head, count_parameters


def features_of(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(1.0, 2.0, size=shape), jnp.float32)


def init(model, features):
    return jax.jit(model.init)(jax.random.key(0), features)


def test_official_expander_has_151_million_parameters():
    variables = jax.eval_shape(Head().init, jax.random.key(0), jnp.zeros((1, 2048)))
    # Two biases, two BatchNorms, no bias on the last layer.
    assert count_parameters(variables) == 2048 * 8192 + 2 * 8192**2 + 2 * 8192 + 4 * 8192
    assert set(variables["params"]["dense_2"]) == {"kernel"}
    assert "batch_norm_2" not in variables["params"]


@pytest.mark.parametrize("train", [False, True])
def test_forward_equals_float64_reference(train):
    model = Head(dims=(12, 10, 7))
    features = features_of((9, 6))
    variables = init(model, features)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = np.asarray(features, np.float64)
    for index in range(2):
        x = x @ params[f"dense_{index}"]["kernel"] + params[f"dense_{index}"]["bias"]
        mean, var = (x.mean(0), x.var(0)) if train else (0.0, 1.0)
        x = np.maximum((x - mean) / np.sqrt(var + 1e-5), 0)
    expected = x @ params["dense_2"]["kernel"]
    z, updates = model.apply(variables, features, train=train, mutable=["batch_stats"])
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
    moved = not np.allclose(updates["batch_stats"]["batch_norm_0"]["mean"], 0)
    assert moved == train


def test_initialisation_is_pytorchs_uniform():
    params = init(Head(dims=(400, 300, 200)), features_of((2, 100)))["params"]
    for name, fan_in in (("dense_0", 100), ("dense_1", 400), ("dense_2", 300)):
        bound = 1 / np.sqrt(fan_in)
        for leaf in params[name].values():
            values = np.asarray(leaf)
            assert np.abs(values).max() <= bound
            assert values.min() < -0.95 * bound
            assert values.max() > 0.95 * bound
            assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)


def test_statistics_survive_activations_far_from_zero():
    # E[x^2] - E[x]^2 in float32 loses everything at a mean of 1e4.
    model = Head(dims=(8, 8))
    features = features_of((64, 4))
    variables = init(model, features)
    shifted = jax.tree.map(lambda leaf: leaf, variables)
    shifted["params"]["dense_0"]["bias"] = variables["params"]["dense_0"]["bias"] + 1e4
    expected, _ = model.apply(variables, features, train=True, mutable=["batch_stats"])
    z, _ = model.apply(shifted, features, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(z, expected, atol=0.01)


def test_bfloat16_keeps_parameters_statistics_and_embeddings_in_float32():
    model = Head(dims=(32, 16), dtype=jnp.bfloat16)
    features = features_of((16, 8))
    variables = init(model, features)
    z, updates = model.apply(variables, features, train=True, mutable=["batch_stats"])
    exact, _ = model.clone(dtype=jnp.float32).apply(variables, features, train=True, mutable=["batch_stats"])
    for leaf in jax.tree.leaves((variables, z, updates)):
        assert leaf.dtype == jnp.float32
    assert not np.array_equal(z, exact)
    np.testing.assert_allclose(z, exact, atol=0.05)


@pytest.mark.parametrize("dims", [(), (8, 0)])
def test_unusable_dims_are_named(dims):
    with pytest.raises(ValueError, match="dims is"):
        Head(dims=dims).init(jax.random.key(0), jnp.zeros((1, 4)))
