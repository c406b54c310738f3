"""BatchNorm against Flax's, one call per view, and against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vicreg_jax.models.batch_norm import BatchNorm

VIEWS, IMAGES, CHANNELS = 3, 5, 4
MOMENTUM, EPSILON = 0.9, 1e-5


def rows_of(*positions, seed=0):
    """`[images, views, ..., channels]`: each view with another mean and scale, so that sharing statistics shows."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(IMAGES, VIEWS, *positions, CHANNELS))
    of_view = (1, VIEWS, *(1 for _ in positions), CHANNELS)
    return np.float32(rows * random.uniform(0.5, 2.0, of_view) + random.normal(size=of_view))


def variables_of(seed=1):
    random = np.random.default_rng(seed)
    draw = lambda low, high: np.float32(random.uniform(low, high, CHANNELS))  # noqa: E731
    return {
        "params": {"scale": draw(0.5, 1.5), "bias": draw(-1, 1)},
        "batch_stats": {"mean": draw(-1, 1), "var": draw(0.5, 1.5)},
    }


def apply(module, variables, x, **options):
    return module.apply(variables, x, mutable=["batch_stats"], **options)


@pytest.mark.parametrize("positions", [(), (3, 2)])
@pytest.mark.parametrize("fast_variance", [True, False])
def test_views_equal_one_call_of_flax_for_each(positions, fast_variance):
    """Values, running statistics, and gradients with respect to parameters and inputs."""
    rows, variables = rows_of(*positions), variables_of()
    ours = BatchNorm(use_running_average=False, views=VIEWS, fast_variance=fast_variance)
    flax = nn.BatchNorm(False, momentum=MOMENTUM, epsilon=EPSILON, use_fast_variance=fast_variance)
    weights = np.random.default_rng(2).normal(size=rows.shape).astype(np.float32)

    def together(params, rows):
        x = rows.reshape(-1, *rows.shape[2:])
        y, updated = apply(ours, variables | {"params": params}, x)
        return jnp.sum(weights * y.reshape(rows.shape)), (y.reshape(rows.shape), updated["batch_stats"])

    def in_turn(params, rows):
        running, outputs = variables["batch_stats"], []
        for view in range(VIEWS):
            y, updated = apply(flax, {"params": params, "batch_stats": running}, rows[:, view])
            running = updated["batch_stats"]
            outputs.append(y)
        y = jnp.stack(outputs, axis=1)
        return jnp.sum(weights * y), (y, running)

    results = []
    for function in (together, in_turn):
        step = jax.jit(jax.value_and_grad(function, argnums=(0, 1), has_aux=True))
        results.append(step(variables["params"], rows))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=2e-5, atol=2e-5), *results)


def test_each_view_is_standardized_by_its_own_rows():
    """Against float64 NumPy, where statistics over all rows would be far off."""
    rows = rows_of(3)
    variables = variables_of()
    y, updated = apply(BatchNorm(use_running_average=False, views=VIEWS), variables, rows.reshape(-1, *rows.shape[2:]))
    exact = np.float64(rows)
    mean, var = exact.mean((0, 2), keepdims=True), exact.var((0, 2), keepdims=True)
    expected = (exact - mean) / np.sqrt(var + EPSILON) * variables["params"]["scale"] + variables["params"]["bias"]
    np.testing.assert_allclose(y.reshape(rows.shape), expected, rtol=1e-4, atol=1e-4)
    running = np.float64(variables["batch_stats"]["mean"])
    for view in range(VIEWS):
        running = MOMENTUM * running + (1 - MOMENTUM) * mean[0, view, 0]
    np.testing.assert_allclose(updated["batch_stats"]["mean"], running, rtol=1e-5)
    over_all = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
    assert np.abs(over_all - (expected - variables["params"]["bias"]) / variables["params"]["scale"]).max() > 0.3


def test_running_statistics_know_no_views():
    x, variables = rows_of().reshape(-1, CHANNELS), variables_of()
    one, many = (BatchNorm(use_running_average=True, views=views).apply(variables, x) for views in (1, VIEWS))
    np.testing.assert_array_equal(one, many)
    exact = nn.BatchNorm(True, epsilon=EPSILON).apply(variables, x)
    np.testing.assert_allclose(one, exact, rtol=1e-6)


def test_sixteen_bits_have_statistics_in_float32():
    """Far from zero, a bfloat16 mean would be off by more than a standard deviation."""
    x = jnp.asarray(rows_of().reshape(-1, CHANNELS) + 50, jnp.bfloat16)
    y, updated = apply(BatchNorm(use_running_average=False, dtype=jnp.bfloat16), variables_of(), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype(jnp.float32)}
    exact = np.float64(x)
    np.testing.assert_allclose(
        updated["batch_stats"]["mean"],
        MOMENTUM * variables_of()["batch_stats"]["mean"] + 0.1 * exact.mean(0),
        rtol=1e-5,
    )


def test_without_scale_and_bias_there_are_no_parameters():
    module = BatchNorm(use_running_average=False, use_scale=False, use_bias=False)
    variables = module.init(jax.random.key(0), jnp.zeros((2, CHANNELS)))
    assert variables.keys() == {"batch_stats"}
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(CHANNELS))
