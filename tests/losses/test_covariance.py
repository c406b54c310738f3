import itertools
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from vicreg_jax.losses import barlow_twins_loss, covariance_term, vicreg_loss
from vicreg_jax.losses.covariance import centered, covariance_off_diagonal, unbiased_off_diagonal, variances
from vicreg_jax.losses.global_batch import GlobalBatch
from vicreg_jax.losses.gram import MAX_LARGE

SLOW = pytest.mark.slow
SHAPES = [(3, 11), (7, 7), (11, 3)]
UNBIASED_SHAPES = [(4, 7), (7, 3), *(pytest.param(s, marks=SLOW) for s in [(4, 2), (7, 9), (33, 257), (64, 64)])]


@jax.jit
def unbiased_term(z):
    return covariance_term(z, unbiased=True)


unbiased_value_and_gradient = jax.jit(jax.value_and_grad(unbiased_term))


def whole(z):
    """The global batch that an array holds."""
    return GlobalBatch(None, z.shape[0])


def samples(shape, scale=1.0, shift=0.0, seed=0):
    return scale * np.random.default_rng(seed).normal(shift, size=shape)


def reference(z):
    """Value and gradient in float64, from the D x D matrix."""
    x = (z - z.mean(axis=0)) / np.sqrt(z.shape[0] - 1)
    off_diagonal = x.T @ x * (1 - np.eye(x.shape[1]))
    return np.sum(off_diagonal**2), 4 * x @ off_diagonal / np.sqrt(x.shape[0] - 1)


def unbiased_reference(z):
    """Value, gradient, and the magnitude of the added and subtracted terms, in float64 from the D x D matrix."""
    z = np.asarray(z, np.float64)
    n, dim = z.shape
    x = z - z.mean(axis=0)
    covariance = x.T @ x / (n - 1)
    variances = np.diag(covariance)
    off_diagonal = covariance - np.diag(variances)
    square_norms = np.sum(x**2, axis=1, keepdims=True)
    biased = (n - 1) * (n - 2) * np.sum(off_diagonal**2)
    variance_products = np.sum(variances) ** 2 - np.sum(variances**2)
    fourth_moments = n / (n - 1) * (np.sum(square_norms**2) - np.sum(x**4))
    of_fourth_moments = 4 * n / (n - 1) * x * (square_norms - x**2)
    of_fourth_moments -= of_fourth_moments.mean(axis=0)  # through the centering; the other gradients have mean zero
    gradient = 4 * (n - 2) * x @ off_diagonal + 4 * x * (variances.sum() - variances) / (n - 1) - of_fourth_moments
    scale = (n - 1) / (n * (n - 2) * (n - 3)) / dim
    magnitude = biased + variance_products + fourth_moments
    return scale * (biased + variance_products - fourth_moments), scale * gradient, scale * magnitude


def textbook_off_diagonal(z):
    c = jnp.cov(z, rowvar=False)
    return jnp.sum(jnp.square(c - jnp.diag(jnp.diag(c))))


def textbook_unbiased_off_diagonal(z):
    n, c, x = len(z), jnp.cov(z, rowvar=False), z - jnp.mean(z, axis=0)
    estimate = (n - 1) * (n - 2) * c**2 + jnp.outer(jnp.diag(c), jnp.diag(c)) - n / (n - 1) * (x**2).T @ x**2
    return (n - 1) / (n * (n - 2) * (n - 3)) * (jnp.sum(estimate) - jnp.trace(estimate))


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
@pytest.mark.parametrize(
    ("ours", "textbook"),
    [
        (lambda z: jnp.sum(centered(z, whole(z)) ** 3), lambda z: jnp.sum((z - jnp.mean(z, axis=0)) ** 3)),
        (lambda z: jnp.sum(variances(z, whole(z), 0) ** 2), lambda z: jnp.sum(jnp.var(z, axis=0) ** 2)),
        (lambda z: covariance_off_diagonal(z, whole(z)), textbook_off_diagonal),
        (lambda z: unbiased_off_diagonal(z, whole(z)), textbook_unbiased_off_diagonal),
    ],
    ids=["centered", "variances", "covariance", "unbiased"],
)
def test_textbook_form(ours, textbook, shape):
    """Value and gradient equal those of the form in the docstring, on either side of N = D."""
    with jax.enable_x64(True):
        actual, expected = (jax.jit(jax.value_and_grad(function))(samples(shape)) for function in (ours, textbook))
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-12)


@jax.jit
def covariance_and_gradient(z):
    return jax.value_and_grad(covariance_off_diagonal)(z, whole(z))


def test_constant_dimensions_are_zero():
    z = jnp.tile(jnp.asarray([0.1, 1e5 / 3, -7e7 / 9]), (7, 1))
    assert not jnp.any(jax.jit(lambda z: centered(z, whole(z)))(z))
    assert barlow_twins_loss(z, z)[1:] == (3, 0)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_gradient_under_a_large_mean(shape):
    """Against float64 on the same rounded embeddings."""
    batch, dim = shape
    z = np.random.default_rng(0).normal(1000, 1, size=shape).astype(np.float32)
    x = z.astype(np.float64) - z.mean(axis=0, dtype=np.float64)
    matrix = x.T @ x / (batch - 1)
    np.fill_diagonal(matrix, 0)
    expected = 4 * x @ matrix / (batch - 1) / dim
    actual = jax.jit(jax.grad(covariance_term))(z)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_derivative_of_centering():
    z, direction = np.random.default_rng(1).normal(size=(2, 5, 3))
    with jax.enable_x64(True):
        _, tangent = jax.jvp(lambda z: centered(z, whole(z)), (jnp.asarray(z),), (jnp.asarray(direction),))
        np.testing.assert_allclose(tangent, direction - direction.mean(axis=0), atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient(shape):
    x = np.random.default_rng(0).normal(size=shape)
    with jax.enable_x64(True):
        actual = jax.jit(jax.value_and_grad(lambda x: covariance_off_diagonal(x, whole(x))))(x)
    for a, e in zip(actual, reference(x), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 5), pytest.param((5, 3), marks=SLOW)])
def test_higher_derivatives_forward_and_reverse(shape):
    """Reverse over reverse, reverse over forward, forward over reverse, forward over forward."""
    with jax.enable_x64(True):
        z = jnp.asarray(np.random.default_rng(1).normal(size=shape))
        check_grads(jax.jit(covariance_term), (z,), order=2, modes=("fwd", "rev"), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "check_vma"), [(12, True), pytest.param(3, False, marks=SLOW)])
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
    products = [e.invars[0].aval.shape + e.invars[1].aval.shape for e in made if e.primitive.name == "dot_general"]
    assert sum(min(shape) > MAX_LARGE for shape in products) == 2  # the others have a few columns
    shapes = {variable.aval.shape for e in made for variable in e.outvars}
    smaller, larger = sorted([batch, dim])
    assert (smaller, smaller) in shapes
    assert (larger, larger) not in shapes

    compiled = jax.jit(jax.value_and_grad(covariance_term)).lower(z).compile().as_text()
    assert f"f32[{smaller},{smaller}]" in compiled
    assert f"[{larger},{larger}]" not in compiled


@pytest.mark.parametrize(
    ("batch", "dim", "products"),
    [(16, 40, {"2,16", "2,40"}), pytest.param(40, 16, {"16,16", "5,16"}, marks=pytest.mark.slow)],
)
def test_each_device_does_its_share(batch, dim, products):
    """Named axis and sharded jit: an eighth of the products, no whole N x N matrix, no D x D collective if N < D."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    z = jax.ShapeDtypeStruct((batch, dim), jnp.float32, sharding=NamedSharding(mesh, P("data")))

    def loss(axis_name, z_a, z_b):
        return vicreg_loss(z_a, z_b, axis_name=axis_name).loss

    mapped = jax.shard_map(partial(loss, "data"), mesh=mesh, in_specs=P("data"), out_specs=P())
    for function in (partial(loss, None), mapped):
        compiled = jax.jit(jax.value_and_grad(function)).lower(z, z).compile().as_text()
        made = set(re.findall(r"= f32\[(\d+,\d+)\]\S* dot\(", compiled))
        assert made - {"2,4", "4,4"} == products  # the others are those of a few large dimensions
        assert f"[{batch},{batch}]" not in compiled
        collectives = re.findall(r"= (.*?) (?:all-gather|all-reduce|reduce-scatter|all-to-all)(?:-start)?\(", compiled)
        moved = {tuple(map(int, shape.split(","))) for shape in re.findall(r"f32\[([\d,]+)\]", " ".join(collectives))}
        assert (batch, dim) in moved if batch < dim else (dim, dim) in moved
        assert max(math.prod(shape) for shape in moved) <= batch * dim  # at most the gathered embeddings


@pytest.mark.parametrize(("batch", "dim"), [pytest.param(1025, 2048, marks=SLOW), (2049, 512)])
def test_no_int32_overflow(batch, dim):
    assert (batch - 1) ** 2 * dim >= 2**31
    z = np.random.default_rng(3).normal(size=(batch, dim)).astype(np.float32)
    expected = reference(z.astype(np.float64))[0] / dim
    np.testing.assert_allclose(jax.jit(covariance_term)(z), expected, rtol=1e-5)


def test_never_negative():
    """One dimension varies: the two sums of the Gram form are equal, and rounding must not make it negative."""
    term = jax.jit(covariance_term)
    z = np.zeros((3, 8), np.float32)
    for seed in range(20):
        z[:, 0] = samples(3, seed=seed)
        assert term(z) >= 0


def test_large_dimension_of_three_rows():
    """All that the subtraction of large sums left of this value was 0."""
    z = np.array([[1e4, 1, 0, 0], [0, 0, 1, 0], [-1e4, 0, 0, 1]], np.float32)
    value, gradient = jax.jit(jax.value_and_grad(covariance_term))(z)
    np.testing.assert_allclose(value, 2.5e7, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], [2500, 0, -2500], rtol=1e-6, atol=1e-2)


def with_large_dimensions(shape, ratio, count, seed=0):
    z = samples(shape, seed=seed)
    z[:, 1 : 1 + count] *= ratio
    return z.astype(np.float32)


@pytest.mark.parametrize("count", [1, 3, pytest.param(8, marks=SLOW)])
@pytest.mark.parametrize("ratio", [1e1, 1e3, 1e6, *(pytest.param(r, marks=SLOW) for r in (1e2, 1e4, 1e5))])
@pytest.mark.parametrize("shape", [(64, 256), *(pytest.param(s, marks=SLOW) for s in [(3, 4), (5, 9), (256, 1024)])])
def test_dimensions_of_large_variance(shape, ratio, count):
    """Each column's gradient has a scale of its own, and all of them are exact.

    A column that happens not to correlate with the large ones has the rounding error of one that does.
    """
    z = with_large_dimensions(shape, ratio, min(count, shape[1] - 1))
    expected, expected_gradient = reference(z.astype(np.float64))
    value, gradient = covariance_and_gradient(z)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    largest = np.abs(expected_gradient).max(axis=0)
    scale = np.maximum(largest, np.median(largest))
    np.testing.assert_array_less(np.abs(gradient - expected_gradient).max(axis=0), 1e-5 * scale)


@pytest.mark.parametrize("ratio", [1e3, pytest.param(1e6, marks=SLOW)])
@pytest.mark.parametrize("shape", [(64, 256), pytest.param((256, 64), marks=SLOW)])
def test_unbiased_term_with_a_large_dimension(shape, ratio):
    z = with_large_dimensions(shape, ratio, 1)
    value, gradient = unbiased_value_and_gradient(z)
    expected, expected_gradient, _ = unbiased_reference(z)
    # The estimate is a difference of terms of this magnitude, which is that of its two smaller sums of pairs.
    variances = z.astype(np.float64).var(axis=0, ddof=1)
    magnitude = (variances.sum() ** 2 - np.sum(variances**2)) / shape[0] / shape[1]
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5 * magnitude)
    largest = np.abs(expected_gradient).max(axis=0)
    assert np.median(np.abs(gradient - expected_gradient).max(axis=0) / largest) < 1e-3


def test_infinite_sums_give_infinity():
    """At 1e10 both sums of the Gram form overflow; their difference was NaN."""
    for shape in ((16, 40), (40, 16)):
        value, gradient = covariance_and_gradient(samples(shape, scale=1e10).astype(np.float32))
        assert value == np.inf
        assert np.all(np.isfinite(gradient))


def over_distinct_rows(z):
    """The mean over all quadruples of distinct rows of products of two covariances, each estimated from two rows."""
    k, m, n, o = np.array(list(itertools.permutations(range(len(z)), 4))).T
    first, second = (z[k] - z[m]) / 2**0.5, (z[n] - z[o]) / 2**0.5
    products = first * second
    all_pairs = np.sum(products, axis=1) ** 2
    return np.mean(all_pairs - np.sum(products**2, axis=1)) / z.shape[1]


@pytest.mark.parametrize(
    ("batch", "dim"), [(4, 3), *(pytest.param(*case, marks=SLOW) for case in [(4, 6), (5, 3), (5, 6)])]
)
def test_is_unbiased(batch, dim):
    """The mean over all samples of a skewed, correlated population of three points is the population's value."""
    population = samples((3, dim), seed=batch) ** 3
    covariance = np.cov(population, rowvar=False, ddof=0)
    expected = (np.sum(covariance**2) - np.sum(np.diag(covariance) ** 2)) / dim
    drawn = np.array(list(itertools.product(population, repeat=batch)))
    assert drawn.shape == (3**batch, batch, dim)
    with jax.enable_x64(True):
        estimates = np.asarray(jax.jit(jax.vmap(unbiased_term))(drawn))
        biased = np.asarray(jax.jit(jax.vmap(covariance_term))(drawn))
    np.testing.assert_allclose(estimates.mean(), expected, rtol=1e-12)
    assert biased.mean() > 1.1 * expected


@pytest.mark.parametrize("shape", [(4, 7), (7, 3), pytest.param((7, 9), marks=SLOW)])
def test_is_the_mean_over_distinct_rows(shape):
    """Complex steps give that polynomial's gradient without a subtraction."""
    z = samples(shape) + samples((*shape[:1], 1), seed=1)
    value = over_distinct_rows(z)
    steps = 1e-30j * np.eye(z.size).reshape(z.size, *shape)
    gradient = np.reshape([over_distinct_rows(z + step).imag for step in steps], shape) / 1e-30
    with jax.enable_x64(True):
        actual, actual_gradient = unbiased_value_and_gradient(z)
    np.testing.assert_allclose(actual, value, rtol=1e-11)
    np.testing.assert_allclose(actual_gradient, gradient, rtol=0, atol=1e-11 * np.abs(gradient).max())


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-5), (np.float64, 1e-11)])
@pytest.mark.parametrize("shape", [*UNBIASED_SHAPES, pytest.param((257, 33), marks=SLOW)])
@settings(max_examples=5, deadline=None, derandomize=True)
@given(scale=st.floats(0.1, 30), shift=st.floats(-3, 3), seed=st.integers(0, 1000))
def test_unbiased_value_and_gradient(shape, dtype, rtol, scale, shift, seed):
    z = samples(shape, scale, shift, seed).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        value, gradient = unbiased_value_and_gradient(z)
    expected, expected_gradient, magnitude = unbiased_reference(z)
    assert value.dtype == dtype
    np.testing.assert_allclose(value, expected, rtol=0, atol=rtol / 10 * magnitude)  # around 0 by design
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=rtol * np.abs(expected_gradient).max())


@pytest.mark.parametrize("batch", [32, pytest.param(256, marks=SLOW)])
def test_unbiased_term_of_independent_features_is_zero_at_any_batch_size(batch):
    """The biased term is (D - 1) / (N - 1)."""
    z = samples((batch, 64)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(covariance_term)(z), 63 / (batch - 1), rtol=0.2)
    np.testing.assert_allclose(unbiased_term(z), 0, atol=6 / batch)  # three standard deviations


@pytest.mark.slow
def test_unbiased_term_in_the_loss():
    z_a, z_b = samples((2, 5, 8)).astype(np.float32)
    biased = jax.jit(vicreg_loss)(z_a, z_b)
    loss = jax.jit(vicreg_loss, static_argnames="unbiased_covariance")(z_a, z_b, unbiased_covariance=True)
    expected = unbiased_term(z_a) + unbiased_term(z_b)
    np.testing.assert_allclose(loss.covariance, expected, atol=1e-6 * biased.covariance)
    np.testing.assert_allclose(loss[1:3], biased[1:3], rtol=1e-6)
    np.testing.assert_allclose(loss.loss - biased.loss, expected - biased.covariance, rtol=1e-4)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_unbiased_term_of_collapsed_embeddings(shape):
    for value in (0.0, 0.3, 1e4):
        term, gradient = unbiased_value_and_gradient(np.full(shape, value, np.float32))
        np.testing.assert_allclose(term, 0, atol=1e-6)
        np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_unbiased_term_needs_four_rows():
    z = np.ones((3, 5), np.float32)
    with pytest.raises(ValueError, match=r"z must have a global batch of at least 4 rows; got shape \(3, 5\)"):
        covariance_term(z, unbiased=True)
    with pytest.raises(ValueError, match=r"z_a must have a global batch of at least 4 rows; got shape \(3, 5\)"):
        vicreg_loss(z, z, unbiased_covariance=True)

    def of_shard(z):
        return covariance_term(z, unbiased=True, axis_name="data")

    with pytest.raises(ValueError, match=r"4 rows; got shape \(1, 5\) on each of 3 shards along 'data'"):
        jax.vmap(of_shard, axis_name="data")(z[:, None])
    z = samples((4, 5)).astype(np.float32)
    of_shards = jax.jit(jax.vmap(of_shard, axis_name="data"))(z[:, None])
    expected, _, magnitude = unbiased_reference(z)
    np.testing.assert_allclose(of_shards, np.full(4, expected), rtol=0, atol=1e-6 * magnitude)


def test_square_of_a_large_batch_does_not_overflow_int32():
    z = jax.ShapeDtypeStruct((2**16, 2), np.float32)
    assert jax.eval_shape(partial(covariance_term, unbiased=True), z).dtype == np.float32
