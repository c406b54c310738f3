"""The stem's forms for GPUs equal the textbook's, value and gradient, on every platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.models import create_backbone, stem

SHAPES = [(2, 8, 8, 3), pytest.param((1, 10, 6, 1), marks=pytest.mark.slow), (3, 4, 12, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_convolution_over_blocks(shape):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal(shape), rng.standard_normal((7, 7, shape[-1], 5))
    numbers = ("NHWC", "HWIO", "NHWC")

    def direct(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((3, 3), (3, 3)), dimension_numbers=numbers)

    def in_blocks(x, kernel):
        x, kernel = stem.blocks_of(x), stem.kernel_of_blocks(kernel)
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((2, 1), (2, 1)), dimension_numbers=numbers)

    with jax.enable_x64(True):
        expected, pull_back = jax.vjp(direct, x, kernel)
        found, pull_back_found = jax.vjp(in_blocks, x, kernel)
        g = rng.standard_normal(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), pull_back_found(g), pull_back(g)
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("values", [3, 1000])
def test_max_pooling_by_places(shape, values):
    """With few values, most windows have several maxima."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.integers(0, values, shape), jnp.float32)
    expected, pull_back = jax.vjp(stem.max_pool_textbook, x)
    found, pull_back_found = jax.vjp(stem.max_pool_by_places, x)
    g = jnp.asarray(rng.integers(-5, 5, expected.shape), jnp.float32)  # their sums are exact
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(*pull_back_found(g), *pull_back(g))


def test_max_pooling_passes_on_what_is_not_finite():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan).at[0, 3, 3, 0].set(-jnp.inf)
    np.testing.assert_array_equal(stem.max_pool_by_places(x), stem.max_pool_textbook(x))


def test_maxima_may_be_taken_before_normalization():
    """Value, statistics and gradients, with scales of both signs and with windows that ReLU cuts off."""
    rng = np.random.default_rng(3)
    x, g = rng.normal(size=(4, 8, 6, 4)), rng.normal(size=(4, 4, 3, 4))
    scale, bias = np.array([0.7, -1.2, -0.4, 1.5]), np.array([-0.8, -1.0, -0.5, -2.0])

    def textbook(x, scale, bias):
        mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
        y = (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias
        return stem.max_pool_textbook(jnp.maximum(y, 0)), mean, var

    def function(x, scale, bias):
        return stem.normalized_max_pool(x, scale, bias, 1e-5)

    with jax.enable_x64(True):
        expected, pull_back = jax.vjp(textbook, x, scale, bias)
        found, pull_back_found = jax.vjp(function, x, scale, bias)
        cotangents = g, np.zeros(4), np.zeros(4)
        assert np.all(np.any(np.asarray(expected[0]) == 0, axis=(0, 1, 2)))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
            (found, pull_back_found(cotangents)),
            (expected, pull_back(cotangents)),
        )


def test_a_scale_of_zero_has_a_gradient():
    """It is the limit of the gradient at small scales; a network may start from there."""
    rng = np.random.default_rng(4)
    x, g, bias = rng.normal(size=(2, 4, 4, 3)), rng.normal(size=(2, 2, 2, 3)), np.ones(3)

    def of_scale(scale):
        return jax.grad(lambda scale: jnp.sum(g * stem.normalized_max_pool(x, scale, bias, 1e-5)[0]))(scale)

    with jax.enable_x64(True):
        gradient = of_scale(jnp.zeros(3))
        assert np.all(np.abs(gradient) > 0.01)
        np.testing.assert_allclose(gradient, of_scale(jnp.full(3, 1e-9)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("size", "platform", "is_fast"), [(32, "cuda", True), (32, "tpu", False), (33, "cuda", False)])
def test_which_form_a_platform_gets(dtype, size, platform, is_fast):
    model = create_backbone("resnet_tiny", stem="imagenet", dtype=dtype)
    images = jnp.zeros((2, size, size, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(params, batch_stats):
        return jnp.sum(model.apply({"params": params, "batch_stats": batch_stats}, images))

    program = (
        jax.jit(jax.grad(loss))
        .trace(variables["params"], variables["batch_stats"])
        .lower(lowering_platforms=(platform,))
        .as_text()
    )
    assert ("select_and_scatter" in program) == (not is_fast)
    assert ("4x4x12x" in program) == is_fast
