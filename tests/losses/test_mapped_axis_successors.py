"""The same as test_mapped_axis.py, for the losses after VICReg: 1, 2, 4 and 8 devices equal one."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy.special import ndtri
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.losses.cases import KEY, corinfomax_loss
from tests.losses.test_mapped_axis import (
    GRID,
    assert_close,
    data_mesh,
    in_one_shard_map,
    network,
    on_every_device,
    problem,
)
from tests.losses.test_mapped_axis import value_and_gradients as weighted_gradients
from vicreg_jax import losses
from vicreg_jax.losses.slices import random_directions

SLICES = 13  # not divisible by the devices
SLOW = pytest.mark.slow


def plain_sigreg(z):
    t = jnp.linspace(0, 3, 17)
    angles = t * (z @ random_directions(KEY, SLICES, z).T)[..., None]
    squares = (jnp.mean(jnp.cos(angles), 0) - jnp.exp(-t * t / 2)) ** 2 + jnp.mean(jnp.sin(angles), 0) ** 2
    return 2 * len(z) * jnp.mean(jnp.trapezoid(squares * jnp.exp(-t * t / 2), t))


def plain_visreg(z):
    std = jnp.sqrt(jnp.var(z, axis=0)) + 1e-6
    x = (z - z.mean(axis=0)) / lax.stop_gradient(std) @ random_directions(KEY, SLICES, z).T
    quantiles = ndtri(jnp.arange(1, len(z) + 1) / (len(z) + 1))
    shape = jnp.mean((jnp.sort(x, axis=0) - quantiles[:, None]) ** 2)
    return jnp.mean(z.mean(axis=0) ** 2) + jnp.mean((std - 1) ** 2) + shape


def plain_corinfomax(z_a, z_b):
    total = 250 * jnp.mean((z_a - z_b) ** 2)
    for z in (z_a, z_b):
        x = z - 0.99 * z.mean(axis=0)
        covariance = 0.01 * jnp.eye(z.shape[1]) + 0.99 * x.T @ x / len(z)
        total -= jnp.linalg.slogdet(covariance + 1e-8 * jnp.eye(z.shape[1]))[1] / z.shape[1]
    return total


def plain_koleo(z):
    u = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    others = ~jnp.eye(len(u), dtype=bool)
    squares = jnp.where(others, jnp.sum((u[:, None] - u[None]) ** 2, axis=2), jnp.inf)
    return -jnp.mean(jnp.log(jnp.sqrt(jnp.min(squares, axis=1)) + 1e-8))


def plain_frossl(z, axis):
    u = z / jnp.linalg.norm(z, axis=axis, keepdims=True)
    total = z.shape[0] * z.shape[2] * jnp.mean((u - u.mean(axis=0)) ** 2)
    for view in u:
        matrix = view.T @ view
        total += jnp.log(jnp.sum((matrix / jnp.trace(matrix)) ** 2))
    return total


def plain_objectives(params, a, b):
    z = jnp.stack([network(params, a), network(params, b), network(params, a + b)])
    values = [
        jnp.mean((z - jnp.mean(z[:2], axis=0)) ** 2),
        plain_sigreg(z[0]),
        plain_visreg(z[1]),
        plain_corinfomax(z[0], z[1]),
        plain_koleo(z[2]),
        plain_frossl(z, axis=1),
        plain_frossl(z[:2], axis=2),
    ]
    return jnp.stack([*values, *([jnp.zeros(())] * 8)])  # as many as test_mapped_axis.py has weights


def of_views(z, axis_name=None):
    along = {"axis_name": axis_name}
    values = [
        losses.multi_view_invariance(z, global_views=2, **along),
        losses.sigreg(z[0], key=KEY, slices=SLICES, **along),
        losses.visreg(z[1], key=KEY, slices=SLICES, **along).loss,
        corinfomax_loss(z[0], z[1], **along)[0].loss,
        losses.koleo_term(z[2], **along),
        losses.frossl_loss(z, **along).loss,
        losses.frossl_loss(z[:2], normalize="rows", **along).loss,
    ]
    return jnp.stack([*values, *([jnp.zeros(())] * 8)])


def objectives(params, a, b, axis_name=None):
    return of_views(jnp.stack([network(params, a), network(params, b), network(params, a + b)]), axis_name)


@cache
def expected_value_and_gradients(dim):
    with jax.enable_x64(True):
        return jax.jit(partial(weighted_gradients, plain_objectives))(*problem(dim))


@SLOW
@pytest.mark.parametrize(("mapping", "devices", "dim"), GRID)
def test_value_and_gradients_equal_one_device(mapping, devices, dim):
    with jax.enable_x64(True):
        actual = on_every_device(mapping, devices, *problem(dim), function=objectives)
        assert_close(actual, expected_value_and_gradients(dim))


@SLOW
@pytest.mark.parametrize("mapping", ["jit", "pmap", "vmap", "shard_map, checked"])
def test_all_in_a_scan_under_checkpoint(mapping):
    def scanned(params, a, b, axis_name=None):
        @jax.checkpoint
        def step(total, weight):
            return total + weight * objectives(params, a, b, axis_name), None

        return lax.scan(step, jnp.zeros(15), jnp.arange(3.0))[0]

    with jax.enable_x64(True):
        actual = on_every_device(mapping, 8, *problem(12), function=scanned)
        assert_close(actual, jax.tree.map(lambda x: 3 * x, expected_value_and_gradients(12)))


@SLOW
def test_checked_shard_map_needs_no_mean():
    with jax.enable_x64(True):
        mapped = in_one_shard_map(partial(weighted_gradients, partial(objectives, axis_name="data")))
        assert_close(mapped(*problem(12)), expected_value_and_gradients(12))


@SLOW
@pytest.mark.parametrize(("dim", "check_vma"), [(12, True), (4, False)])
def test_differentiated_from_outside(dim, check_vma):
    with jax.enable_x64(True):
        mapped = in_one_shard_map(partial(objectives, axis_name="data"), check_vma=check_vma)
        assert_close(jax.jit(partial(weighted_gradients, mapped))(*problem(dim)), expected_value_and_gradients(dim))


@SLOW
@pytest.mark.parametrize(("dim", "check_vma"), [(12, True), (4, False)])
def test_batch_over_two_mesh_axes(dim, check_vma):
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    names = ("data", "fsdp")

    def local(*arguments):
        return lax.pmean(weighted_gradients(partial(objectives, axis_name=names), *arguments), names)

    with jax.enable_x64(True):
        in_specs = (P(), P(names), P(names))
        mapped = jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=check_vma)
        assert_close(jax.jit(mapped)(*problem(dim)), expected_value_and_gradients(dim))


@SLOW
@pytest.mark.parametrize("dim", [4, 12])
def test_explicit_mesh_axes(dim):
    """The default axis type of `jax.make_mesh`."""
    with jax.enable_x64(True):
        params, a, b = problem(dim)
        z = jnp.stack([network(params, a), network(params, b), network(params, a + b)])
        sharded = jax.device_put(z, NamedSharding(data_mesh(8, AxisType.Explicit), P(None, "data")))

        def total(z):
            return jnp.dot(jnp.linspace(1, 2, 15), of_views(z))

        expected = jax.jit(jax.value_and_grad(total))(z)
        assert_close(jax.jit(jax.value_and_grad(total))(sharded), expected)


@SLOW
@pytest.mark.parametrize("mapping", ["jit", "shard_map"])
def test_visreg_gathers_nothing(mapping):
    """Devices exchange slices; no array of all rows and all slices, or of all embeddings, is on any of them."""
    mesh = data_mesh(8)
    along = {"axis_name": "data"} if mapping == "shard_map" else {}

    def loss(z):
        return losses.visreg(z, key=KEY, slices=32, **along).loss

    function = jax.value_and_grad(loss)
    if mapping == "shard_map":
        function = jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=(P(), P("data")))
    sharded = NamedSharding(mesh, P("data"))
    z = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=sharded)
    text = jax.jit(function, out_shardings=(NamedSharding(mesh, P()), sharded)).lower(z).compile().as_text()
    assert " all-to-all(" in text
    assert " all-gather(" not in text
    assert "f32[32,64]" not in text


@SLOW
@pytest.mark.parametrize("mapping", ["pmap", "vmap"])
def test_every_device_has_the_same_directions(mapping):
    def local(z):
        return random_directions(KEY, 3, z)

    z = jnp.zeros((4, 2, 5))
    every = jax.pmap(local)(z) if mapping == "pmap" else jax.vmap(local)(z)
    np.testing.assert_array_equal(every, np.broadcast_to(every[0], every.shape))
    np.testing.assert_allclose(every[0], local(z[0]), rtol=1e-6)
