"""The head against NumPy with each of its options, its initialization and its precision."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.models import Head, count_parameters


def features_of(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(1.0, 2.0, size=shape), jnp.float32)


def init(model, features):
    return jax.jit(model.init)(jax.random.key(0), features)


@partial(jax.jit, static_argnums=(0, 3))
def apply(model, variables, features, train):
    """Embeddings and the new running statistics."""
    return model.apply(variables, features, train=train, mutable=["batch_stats"])


def test_official_expander_has_151_million_parameters():
    variables = jax.eval_shape(Head().init, jax.random.key(0), jnp.zeros((1, 2048)))
    # Two biases, two BatchNorms, and no bias in the last layer.
    assert count_parameters(variables) == 2048 * 8192 + 2 * 8192**2 + 2 * 8192 + 4 * 8192
    assert set(variables["params"]["dense_2"]) == {"kernel"}
    assert "batch_norm_2" not in variables["params"]


def random_variables(model, features):
    """Random variables without zero means and shifts or unit scales and variances, so that each one matters."""
    random = np.random.default_rng(1)

    def leaf(path, array):
        is_positive = path[-1].key in ("scale", "var")
        return np.float32(random.uniform(0.5, 1.5, array.shape) if is_positive else random.normal(0, 0.5, array.shape))

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(model.init, jax.random.key(0), features))


def reference(variables, x, train):
    """Embeddings and new running statistics in float64, with the parameters that are there."""
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    params, stats = variables["params"], variables.get("batch_stats", {})
    x, new_stats = np.asarray(x, np.float64), {}
    layers = sum(name.startswith("dense") for name in params)
    for index in range(layers):
        dense, name = params[f"dense_{index}"], f"batch_norm_{index}"
        x = x @ dense["kernel"] + dense.get("bias", 0)
        if name in stats:
            mean, var = (x.mean(0), x.var(0)) if train else (stats[name]["mean"], stats[name]["var"])
            new_stats[name] = {
                "mean": 0.9 * stats[name]["mean"] + 0.1 * mean,
                "var": 0.9 * stats[name]["var"] + 0.1 * var,
            }
            x = (x - mean) / np.sqrt(var + 1e-5) * params.get(name, {}).get("scale", 1)
            x = x + params.get(name, {}).get("bias", 0)
        if index < layers - 1:
            x = np.maximum(x, 0)
    return x, new_stats if train else stats


@pytest.mark.parametrize(
    ("options", "biases", "scales", "shifts", "statistics"),
    [
        # For each layer: whether its Dense has a bias, and its BatchNorm a scale, a shift and statistics.
        ({}, "110", "110", "110", "110"),
        ({"hidden_bias": False}, "000", "110", "110", "110"),
        ({"output_bias": True}, "111", "110", "110", "110"),
        ({"hidden_bias": False, "output_norm": "scale"}, "000", "111", "110", "111"),
        ({"hidden_bias": False, "output_bias": True, "output_norm": "plain"}, "001", "110", "110", "111"),
        ({"batch_norm": False}, "110", "000", "000", "000"),
        ({"batch_norm": False, "hidden_bias": False, "output_norm": "plain"}, "110", "000", "000", "000"),
    ],
)
def test_forward_matches_float64_reference(options, biases, scales, shifts, statistics):
    model, features = Head(dims=(12, 10, 7), **options), features_of((9, 6))
    variables = random_variables(model, features)
    params, stats = variables["params"], variables.get("batch_stats", {})

    def layers_with(tree, layer, parameter):
        return "".join(str(int(parameter in tree.get(f"{layer}_{index}", {}))) for index in range(3))

    assert layers_with(params, "dense", "bias") == biases
    assert layers_with(params, "batch_norm", "scale") == scales
    assert layers_with(params, "batch_norm", "bias") == shifts
    assert layers_with(stats, "batch_norm", "mean") == statistics
    for train in (False, True):
        expected, new_stats = reference(variables, features, train)
        z, updates = apply(model, variables, features, train)
        np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
        assert jax.tree.structure(updates.get("batch_stats", {})) == jax.tree.structure(new_stats)
        jax.tree.map(
            lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5),
            updates.get("batch_stats", {}),
            new_stats,
        )


def test_initialization_is_pytorchs():
    params = init(Head(dims=(400, 300, 200), output_bias=True), features_of((2, 100)))["params"]
    assert all(set(params[f"dense_{index}"]) == {"kernel", "bias"} for index in range(3))
    for name, fan_in in (("dense_0", 100), ("dense_1", 400), ("dense_2", 300)):
        bound = 1 / np.sqrt(fan_in)
        for leaf in params[name].values():
            values = np.asarray(leaf)
            assert np.abs(values).max() <= bound
            assert values.min() < -0.95 * bound
            assert values.max() > 0.95 * bound
            assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)


def test_statistics_are_accurate_for_activations_far_from_zero():
    # In float32, E[x^2] - E[x]^2 has no correct digit at a mean of 1e4.
    model = Head(dims=(8, 8))
    features = features_of((64, 4))
    variables = init(model, features)
    shifted = jax.tree.map(lambda leaf: leaf, variables)
    shifted["params"]["dense_0"]["bias"] = variables["params"]["dense_0"]["bias"] + 1e4
    expected, _ = apply(model, variables, features, train=True)
    z, _ = apply(model, shifted, features, train=True)
    np.testing.assert_allclose(z, expected, atol=0.01)


def test_bfloat16_keeps_parameters_statistics_and_embeddings_in_float32():
    model = Head(dims=(32, 16), dtype=jnp.bfloat16)
    features = features_of((16, 8))
    variables = init(model, features)
    z, updates = apply(model, variables, features, train=True)
    exact, _ = apply(model.clone(dtype=jnp.float32), variables, features, train=True)
    for leaf in jax.tree.leaves((variables, z, updates)):
        assert leaf.dtype == jnp.float32
    assert not np.array_equal(z, exact)
    np.testing.assert_allclose(z, exact, atol=0.05)


@pytest.mark.parametrize("dims", [(), (8, 0)])
def test_invalid_dims_are_refused(dims):
    with pytest.raises(ValueError, match=r"^dims must be one or more integers of at least 1; got \("):
        Head(dims=dims).init(jax.random.key(0), jnp.zeros((1, 4)))


def test_unknown_output_norm_is_refused():
    with pytest.raises(ValueError, match=r"^output_norm must be one of none, scale, plain; got 'layer'"):
        Head(dims=(4,), output_norm="layer").init(jax.random.key(0), jnp.zeros((1, 4)))
