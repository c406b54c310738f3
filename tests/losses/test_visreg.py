from functools import cache, partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from vicreg_jax.losses import visreg
from vicreg_jax.losses.global_batch import GlobalBatch
from vicreg_jax.losses.ranks import ranks, sorted_entries
from vicreg_jax.losses.slices import random_directions
from vicreg_jax.losses.visreg import normal_quantiles, sliced_distance

KEY = jax.random.key(0)
SLOW = pytest.mark.slow


def quantiles_of(rows):
    return np.array([NormalDist().inv_cdf(i / (rows + 1)) for i in range(1, rows + 1)])


def reference(z, directions):
    """The terms of the textbook form, and the gradient of their sum, in float64."""
    z, directions = np.asarray(z, np.float64), np.asarray(directions, np.float64)
    rows, dim = z.shape
    mean, deviation = z.mean(axis=0), z.std(axis=0)
    std = deviation + 1e-6
    x = (z - mean) / std @ directions.T
    difference = x - quantiles_of(rows)[np.argsort(np.argsort(x, axis=0), axis=0)]
    terms = np.mean(mean**2), np.mean((std - 1) ** 2), np.mean(difference**2)
    by_shape = 2 / x.size * difference @ directions / std
    gradient = 2 * mean / (dim * rows) + 2 / dim * (std - 1) * (z - mean) / (rows * deviation)
    return (sum(terms), *terms), gradient + by_shape - by_shape.mean(axis=0)


def directions_of(slices, dim):
    with jax.enable_x64(True):
        return np.asarray(random_directions(KEY, slices, jnp.zeros((1, dim), jnp.float64)))


@cache
def compiled(slices):
    def loss(z):
        terms = visreg(z, key=KEY, slices=slices)
        return terms.loss, terms

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def draw(shape):
    return 2 * np.random.default_rng(0).normal(size=shape) + 0.5


def test_terms_and_gradient():
    z = draw((6, 9))
    with jax.enable_x64(True):
        (_, terms), gradient = compiled(7)(z)
    expected, expected_gradient = reference(z, directions_of(7, 9))
    np.testing.assert_allclose(terms, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-13)


@SLOW
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-11)])
def test_eight_devices_against_numpy(dtype, tolerance):
    """50 slices: six devices have seven of them, one has the rest, one has none."""
    z = draw((64, 12)).astype(dtype)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = {"mesh": mesh, "in_specs": P("data"), "out_specs": P()}
    with jax.enable_x64(dtype == np.float64):
        loss = jax.shard_map(lambda z: visreg(z, key=KEY, slices=50, axis_name="data").loss, **specs)
        value, gradient = jax.jit(jax.value_and_grad(loss))(z)
    expected, expected_gradient = reference(z, directions_of(50, 12))
    np.testing.assert_allclose(value, expected[0], rtol=tolerance)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=tolerance * np.abs(expected_gradient).max())


@SLOW
def test_the_value_alone_is_the_same():
    """Without a gradient, other sorts are used."""
    z = jnp.asarray(draw((65, 8)), jnp.float32)
    alone = jax.jit(partial(visreg, key=KEY, slices=30))(z)
    np.testing.assert_allclose(alone, compiled(30)(z)[0][1], rtol=1e-6)


@SLOW
def test_second_derivatives_of_the_distance():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        z, direction = jnp.asarray(rng.normal(size=(2, 8, 5)))
        directions = random_directions(KEY, 6, z)
        gradient = jax.jit(jax.grad(lambda z: sliced_distance(z, directions, GlobalBatch(None, 8))))
        expected = (gradient(z + 1e-5 * direction) - gradient(z - 1e-5 * direction)) / 2e-5
        forward = jax.jvp(gradient, (z,), (direction,))[1]
        reverse = jax.grad(lambda z: jnp.vdot(gradient(z), direction))(z)
    for vector in (forward, reverse):
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-8)


@SLOW
def test_constant_embeddings():
    for constant in (0.0, 0.1, 1e4):
        (_, terms), gradient = compiled(20)(jnp.full((32, 6), constant))
        np.testing.assert_allclose(terms.center, constant**2, rtol=1e-5)
        np.testing.assert_allclose(terms.scale, 1, rtol=1e-5)
        np.testing.assert_allclose(terms.shape, np.mean(quantiles_of(32) ** 2), rtol=1e-5)
        assert np.all(np.isfinite(gradient))


@SLOW
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-13)])
def test_quantiles(dtype, tolerance):
    """Accurate in both tails; the ranks above the count are left out."""
    rows = 4096
    with jax.enable_x64(dtype == np.float64):
        rank = jnp.arange(1, rows + 6, dtype=dtype)
        quantiles = normal_quantiles(rank, jnp.asarray(rows, dtype))
    np.testing.assert_allclose(quantiles[:rows], quantiles_of(rows), rtol=tolerance, atol=tolerance)
    assert not np.any(quantiles[rows:])


@SLOW
@pytest.mark.parametrize("rows", [7, 2**16 + 3])
def test_ranks_and_sorted_entries(rows):
    x = np.random.default_rng(0).permuted(np.arange(3 * rows, dtype=np.float32).reshape(3, rows) - rows - 0.5, axis=1)
    x[0, :3] = np.inf, -np.inf, -0.0
    np.testing.assert_array_equal(ranks(x), np.argsort(np.argsort(x, axis=1), axis=1))
    np.testing.assert_array_equal(sorted_entries(jnp.asarray(x)), np.sort(x, axis=1))


@SLOW
def test_equal_entries_have_different_ranks():
    np.testing.assert_array_equal(np.sort(ranks(jnp.zeros((2, 9)))), np.broadcast_to(np.arange(9), (2, 9)))


def test_errors():
    z = jnp.ones((4, 3))
    with pytest.raises(ValueError, match="slices must be a positive integer; got 0"):
        visreg(z, key=KEY, slices=0)
    with pytest.raises(ValueError, match="epsilon must be at least 0 and finite; got -1"):
        visreg(z, key=KEY, epsilon=-1)
    with pytest.raises(TypeError, match=r"VISRegLoss must not be added or multiplied.*use its \.loss"):
        2 * jax.eval_shape(partial(visreg, key=KEY, slices=3), z)
