import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from vicreg_jax.losses import covariance_term, vicreg_loss
from vicreg_jax.losses.covariance import covariance_off_diagonal

SHAPES = [(3, 11), (7, 7), (11, 3)]


def reference(z):
    """Value and gradient in float64, from the D x D matrix."""
    x = (z - z.mean(axis=0)) / np.sqrt(z.shape[0] - 1)
    off_diagonal = x.T @ x * (1 - np.eye(x.shape[1]))
    return np.sum(off_diagonal**2), 4 * x @ off_diagonal / np.sqrt(x.shape[0] - 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient(shape):
    x = np.random.default_rng(0).normal(size=shape)
    with jax.enable_x64(True):
        actual = jax.jit(jax.value_and_grad(lambda x: covariance_off_diagonal(x, None)))(x)
    for a, e in zip(actual, reference(x), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_higher_derivatives_forward_and_reverse(shape):
    """Reverse over reverse, reverse over forward, forward over reverse, forward over forward."""
    with jax.enable_x64(True):
        z = jnp.asarray(np.random.default_rng(1).normal(size=shape))
        check_grads(jax.jit(covariance_term), (z,), order=2, modes=("fwd", "rev"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dim", "check_vma"), [(12, True), (3, False)])
def test_second_derivative_across_devices(dim, check_vma):
    """A Hessian-vector product, reverse over reverse, through a mapped axis."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    specs = {"mesh": mesh, "in_specs": P("data"), "out_specs": P(), "check_vma": check_vma}

    def hessian_product(function, z, direction):
        return jax.grad(lambda z: jnp.vdot(jax.grad(function)(z), direction))(z)

    with jax.enable_x64(True):
        z, direction = jnp.asarray(np.random.default_rng(2).normal(size=(2, 8, dim)))
        mapped = jax.shard_map(partial(covariance_term, axis_name="data"), **specs)
        actual = jax.jit(partial(hessian_product, mapped))(z, direction)
        expected = jax.jit(partial(hessian_product, covariance_term))(z, direction)
        np.testing.assert_allclose(actual, expected, rtol=1e-11)


@pytest.mark.parametrize(("batch", "dim"), [(16, 40), (40, 16)])
def test_two_products_and_only_the_smaller_matrix(operations, batch, dim):
    z = jnp.zeros((batch, dim))
    jaxpr = jax.make_jaxpr(jax.value_and_grad(covariance_term))(z).jaxpr
    made = list(operations(jaxpr))
    assert sum(e.primitive.name == "dot_general" for e in made) == 2
    shapes = {variable.aval.shape for e in made for variable in e.outvars}
    smaller, larger = sorted([batch, dim])
    assert (smaller, smaller) in shapes
    assert (larger, larger) not in shapes

    compiled = jax.jit(jax.value_and_grad(covariance_term)).lower(z).compile().as_text()
    assert f"f32[{smaller},{smaller}]" in compiled
    assert f"[{larger},{larger}]" not in compiled


@pytest.mark.parametrize(("batch", "dim", "products"), [(16, 40, {"2,16", "2,40"}), (40, 16, {"16,16", "5,16"})])
def test_each_device_does_its_share(batch, dim, products):
    """Named axis and sharded jit: an eighth of the products, no whole N x N matrix, no collective of D x D if N < D."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    z = jax.ShapeDtypeStruct((batch, dim), jnp.float32, sharding=NamedSharding(mesh, P("data")))

    def loss(axis_name, z_a, z_b):
        return vicreg_loss(z_a, z_b, axis_name=axis_name).loss

    mapped = jax.shard_map(partial(loss, "data"), mesh=mesh, in_specs=P("data"), out_specs=P())
    for function in (partial(loss, None), mapped):
        compiled = jax.jit(jax.value_and_grad(function)).lower(z, z).compile().as_text()
        made = set(re.findall(r"= f32\[(\d+,\d+)\]\S* dot\(", compiled))
        assert made == products
        assert f"[{batch},{batch}]" not in compiled
        collectives = re.findall(r"= (.*?) (?:all-gather|all-reduce|reduce-scatter|all-to-all)(?:-start)?\(", compiled)
        moved = {tuple(map(int, shape.split(","))) for shape in re.findall(r"f32\[([\d,]+)\]", " ".join(collectives))}
        assert (batch, dim) in moved if batch < dim else (dim, dim) in moved
        assert max(math.prod(shape) for shape in moved) <= batch * dim  # the gathered embeddings, or less


@pytest.mark.parametrize(("batch", "dim"), [(1025, 2048), (2049, 512)])
def test_no_int32_overflow(batch, dim):
    assert (batch - 1) ** 2 * dim >= 2**31
    z = np.random.default_rng(3).normal(size=(batch, dim)).astype(np.float32)
    expected = reference(z.astype(np.float64))[0] / dim
    np.testing.assert_allclose(jax.jit(covariance_term)(z), expected, rtol=1e-5)


def test_never_negative():
    """One dimension varies: the two sums of the Gram form are equal, and rounding must not show."""
    term = jax.jit(covariance_term)
    for seed in range(20):
        z = jnp.zeros((3, 8)).at[:, 0].set(jax.random.normal(jax.random.key(seed), (3,)))
        assert term(z) >= 0


@pytest.mark.parametrize("dominance", [1, 100])
@pytest.mark.parametrize("shape", [(2, 3), (2, 4), (3, 4), (5, 9)])
def test_cancellation_in_the_gram_form(shape, dominance):
    """Exact relative to what the variances' squares are subtracted from, also where one dimension is most of that."""
    z = np.random.default_rng(0).normal(size=(1000, *shape)).astype(np.float32)
    z[:, :, 0] *= dominance
    actual, gradients = jax.jit(jax.vmap(jax.value_and_grad(lambda z: covariance_off_diagonal(z, None))))(z)
    expected, expected_gradients = (np.array(results) for results in zip(*map(reference, z.astype(float)), strict=True))
    x = (z - z.mean(axis=1, keepdims=True, dtype=float)) / np.sqrt(shape[0] - 1)
    gram = x @ x.swapaxes(1, 2)
    gram_gradients = 4 * gram @ x / np.sqrt(shape[0] - 1)
    error = np.abs(actual - expected)
    gradient_error = np.abs(gradients - expected_gradients).max(axis=(1, 2))
    assert np.all(error <= 1e-6 * np.sum(gram**2, axis=(1, 2)))
    assert np.all(gradient_error <= 2e-5 * np.abs(gram_gradients).max(axis=(1, 2)))
    if dominance == 1:
        assert np.quantile(error / expected, 0.99) <= 1e-5
        assert np.all(gradient_error <= 1e-5 * np.abs(expected_gradients).max(axis=(1, 2)))
