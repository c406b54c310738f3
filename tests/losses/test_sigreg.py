from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from vicreg_jax.losses import sigreg
from vicreg_jax.losses.slices import random_directions

KEY = jax.random.key(0)
SLOW = pytest.mark.slow


def reference(z, directions, knots=17, t_max=3.0):
    """The textbook form and its gradient, in float64."""
    z, directions = np.asarray(z, np.float64), np.asarray(directions, np.float64)
    t = np.linspace(0, t_max, knots)
    phi = np.exp(-(t**2) / 2)
    weights = 2 * t[1] * phi
    weights[[0, -1]] /= 2
    angles = (z @ directions.T)[..., None] * t
    cosines, sines = np.mean(np.cos(angles), axis=0) - phi, np.mean(np.sin(angles), axis=0)
    value = len(z) * np.mean((cosines**2 + sines**2) @ weights)
    by_x = 2 / len(directions) * ((sines * np.cos(angles) - cosines * np.sin(angles)) @ (weights * t))
    return value, by_x @ directions


def directions_of(slices, dim):
    """In float64, from the same draw."""
    with jax.enable_x64(True):
        return np.asarray(random_directions(KEY, slices, jnp.zeros((1, dim), jnp.float64)))


@cache
def compiled(slices, knots=17, t_max=3.0):
    return jax.jit(jax.value_and_grad(partial(sigreg, key=KEY, slices=slices, knots=knots, t_max=t_max)))


def draw(shape, scale=1.0):
    return scale * np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize(
    ("knots", "t_max"), [(17, 3.0), pytest.param(3, 1.0, marks=SLOW), pytest.param(41, 5.0, marks=SLOW)]
)
def test_value_and_gradient(knots, t_max):
    z = draw((6, 9))
    with jax.enable_x64(True):
        value, gradient = compiled(7, knots, t_max)(z)
    expected, expected_gradient = reference(z, directions_of(7, 9), knots, t_max)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-13)


@SLOW
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_float32_against_float64(scale):
    """The recurrence keeps the accuracy of the angles, up to |t x| of several hundred."""
    z = draw((128, 16), scale).astype(np.float32)
    value, gradient = compiled(64)(z)
    expected, expected_gradient = reference(z, directions_of(64, 16))
    tolerance = 1e-5 * max(1, scale)  # an angle of 300 has an error of 1e-5
    np.testing.assert_allclose(value, expected, rtol=tolerance)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=tolerance * np.abs(expected_gradient).max())


@SLOW
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-11)])
def test_eight_devices_against_numpy(dtype, tolerance):
    z = draw((64, 12)).astype(dtype)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = {"mesh": mesh, "in_specs": P("data"), "out_specs": P()}
    with jax.enable_x64(dtype == np.float64):
        loss = jax.shard_map(partial(sigreg, key=KEY, slices=50, axis_name="data"), **specs)
        value, gradient = jax.jit(jax.value_and_grad(loss))(z)
    expected, expected_gradient = reference(z, directions_of(50, 12))
    np.testing.assert_allclose(value, expected, rtol=tolerance)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=tolerance * np.abs(expected_gradient).max())


@SLOW
def test_blocks_do_not_change_the_result():
    """300 slices: one block, or three of which the last is padded."""
    z = jnp.asarray(draw((9, 5)), jnp.float32)
    many_rows = jnp.tile(z, (400, 1))  # 262,144 entries of a block have 128 slices left
    value, gradient = compiled(300)(many_rows)
    expected, expected_gradient = compiled(300)(z)
    np.testing.assert_allclose(value, 400 * expected, rtol=1e-5)
    np.testing.assert_allclose(gradient.reshape(400, 9, 5).sum(axis=0), 400 * expected_gradient, rtol=1e-3, atol=1e-3)


def test_no_array_has_the_knots(operations):
    """Forward and backward: nothing is larger than a block of slices, but for the derivative by the projections."""
    z = jax.ShapeDtypeStruct((8192, 4), jnp.float32)
    jaxpr = jax.make_jaxpr(jax.value_and_grad(partial(sigreg, key=KEY, slices=256, knots=17)))(z)
    sizes = [variable.aval.size for equation in operations(jaxpr.jaxpr) for variable in equation.outvars]
    assert max(sizes) <= 8192 * 256
    assert sum(size == 8192 * 256 for size in sizes) <= 4


@SLOW
def test_expectation_for_normal_embeddings():
    t = np.linspace(0, 3, 17)
    phi = np.exp(-(t**2) / 2)
    weights = 2 * t[1] * phi
    weights[[0, -1]] /= 2
    for rows in (16, 256):
        z = jax.random.normal(jax.random.key(rows), (64, rows, 32))
        values = jax.vmap(partial(sigreg, key=KEY, slices=64))(z)
        np.testing.assert_allclose(np.mean(values), weights @ (1 - phi**2), rtol=0.1)


@SLOW
def test_symmetries():
    """Even in z, and the same for any order of the rows."""
    z = jnp.asarray(draw((32, 6)), jnp.float32)
    expected, gradient = compiled(20)(z)
    for other in (-z, z[::-1]):
        np.testing.assert_allclose(compiled(20)(other)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(compiled(20)(-z)[1], -gradient, rtol=1e-4, atol=1e-6)


@SLOW
def test_constant_embeddings():
    """Far above any that are spread; finite gradients, which are zero at zero, a stationary point."""
    for constant in (0.0, 1.0, 1e4):
        value, gradient = compiled(20)(jnp.full((32, 6), constant))
        assert value > 10 * compiled(20)(jnp.asarray(draw((32, 6)), jnp.float32))[0]
        assert np.all(np.isfinite(gradient))
    assert not np.any(compiled(20)(jnp.zeros((32, 6)))[1])


def test_errors():
    z = jnp.ones((4, 3))
    for knots in (16, 1, 2.5):
        with pytest.raises(ValueError, match=rf"knots must be an odd integer of at least 3; got {knots}"):
            sigreg(z, key=KEY, knots=knots)
    for slices in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"slices must be a positive integer; got {slices}"):
            sigreg(z, key=KEY, slices=slices)
    for t_max in (0.0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"t_max must be above 0 and finite; got {t_max}"):
            sigreg(z, key=KEY, t_max=t_max)
    with pytest.raises(TypeError, match="t_max must be a number, and static; got "):
        jax.jit(lambda t_max: sigreg(z, key=KEY, t_max=t_max)).eval_shape(3.0)
