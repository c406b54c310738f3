import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.losses import BarlowTwinsLoss, barlow_twins_loss
from vicreg_jax.losses.gram import MAX_LARGE

SLOW = pytest.mark.slow
SHAPES = [(2, 1), (5, 9), *(pytest.param(s, marks=SLOW) for s in [(2, 1024), (32, 32), (63, 257), (512, 65)])]
PRECISIONS = [(np.float32, 1e-5), (np.float64, 1e-11)]


def reference(z_a, z_b, epsilon=1e-5):
    """For on_diagonal and off_diagonal: value, gradients, and gradients before the standardization."""
    z_a, z_b = np.asarray(z_a, np.float64), np.asarray(z_b, np.float64)
    batch = len(z_a)
    (x_a, std_a), (x_b, std_b) = (standardized(z, epsilon) for z in (z_a, z_b))
    on_diagonal = x_a.T @ x_b / batch
    off_diagonal = on_diagonal.copy()
    np.fill_diagonal(off_diagonal, 0)
    on_diagonal = np.diag(np.diag(on_diagonal) - 1)
    terms = []
    for matrix in (on_diagonal, off_diagonal):
        of_standardized = (2 / batch * x_b @ matrix.T / std_a, 2 / batch * x_a @ matrix / std_b)
        gradients = [
            g - g.mean(axis=0) - x * np.mean(g * x, axis=0) for g, x in zip(of_standardized, (x_a, x_b), strict=True)
        ]
        terms.append((np.sum(matrix**2), gradients, of_standardized))
    return terms


def standardized(z, epsilon):
    std = np.sqrt(z.var(axis=0) + epsilon)
    return (z - z.mean(axis=0)) / std, std


def views(shape, scale=1.0, shift=0.0, seed=0):
    return scale * np.random.default_rng(seed).normal(shift, size=(2, *shape))


@jax.jit
def values_and_gradients(z_a, z_b, **settings):
    """on_diagonal and off_diagonal, and the gradients of each with respect to both views."""

    def terms(z_a, z_b):
        return barlow_twins_loss(z_a, z_b, **settings)[1:]

    values, pull_back = jax.vjp(terms, z_a, z_b)
    zero, one = jnp.zeros_like(values[0]), jnp.ones_like(values[0])
    return values, (pull_back((one, zero)), pull_back((zero, one)))


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(scale=st.floats(0.1, 100), shift=st.floats(-3, 3), seed=st.integers(0, 1000))
def test_values_and_gradients(shape, dtype, rtol, scale, shift, seed):
    z_a, z_b = views(shape, scale, shift, seed).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        values, gradients = values_and_gradients(z_a, z_b)
    for value, of_views, expected in zip(values, gradients, reference(z_a, z_b), strict=True):
        expected_value, expected_gradients, of_standardized = expected
        assert value.dtype == dtype
        # Each term is the square of a difference from 1, with a rounding error of a few eps.
        rounding = 16 * np.finfo(dtype).eps * np.sqrt(expected_value)
        np.testing.assert_allclose(value, expected_value, rtol=rtol, atol=rtol**2 + rounding)
        # Two rows always standardize to +-1: almost nothing remains of a gradient of this size.
        sizes = of_standardized if shape[0] == 2 else expected_gradients
        for actual, of_view, size in zip(of_views, expected_gradients, sizes, strict=True):
            np.testing.assert_allclose(actual, of_view, rtol=0, atol=rtol * np.abs(size).max())


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_textbook_form(shape):
    """Value and gradients equal those of the form in the docstring, on either side of N = D."""

    def textbook(z_a, z_b):
        x_a, x_b = ((z - jnp.mean(z, axis=0)) / jnp.sqrt(jnp.var(z, axis=0) + 1e-5) for z in (z_a, z_b))
        c = x_a.T @ x_b / len(z_a)
        return jnp.sum((jnp.diag(c) - 1) ** 2) + 0.0051 * jnp.sum((c - jnp.diag(jnp.diag(c))) ** 2)

    def ours(z_a, z_b):
        return barlow_twins_loss(z_a, z_b).loss

    with jax.enable_x64(True):
        actual, expected = (jax.jit(jax.value_and_grad(f, (0, 1)))(*views(shape)) for f in (ours, textbook))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-12)


def test_result_and_traced_settings():
    """Both sums are unweighted; the derivative with respect to the weight is one of them."""
    z_a, z_b = views((6, 9)).astype(np.float32)
    (on_diagonal, *_), (off_diagonal, *_) = reference(z_a, z_b, epsilon=0.5)

    @jax.jit
    def loss(weight, epsilon):
        terms = barlow_twins_loss(z_a, z_b, redundancy_weight=weight, epsilon=epsilon)
        return terms.loss, terms

    (_, terms), of_weight = jax.value_and_grad(loss, has_aux=True)(0.3, 0.5)
    assert isinstance(terms, BarlowTwinsLoss)
    assert terms._fields == ("loss", "on_diagonal", "off_diagonal")
    assert all(scalar.shape == () and scalar.dtype == np.float32 for scalar in terms)
    np.testing.assert_allclose(terms[1:], (on_diagonal, off_diagonal), rtol=1e-5)
    np.testing.assert_allclose(terms.loss, on_diagonal + 0.3 * off_diagonal, rtol=1e-5)
    np.testing.assert_allclose(of_weight, off_diagonal, rtol=1e-5)
    np.testing.assert_allclose(
        barlow_twins_loss(z_a, z_b, epsilon=0.5).loss, on_diagonal + 0.0051 * off_diagonal, rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(5, 3), pytest.param((7, 7), marks=SLOW)])
def test_both_products_agree(shape):
    """Constant dimensions correlate with nothing, but make the N x N product the smaller one."""
    z = views(shape)
    constant = max(shape[0] - shape[1], 0) + 1
    padding = ((0, 0), (0, 0), (0, constant))
    with jax.enable_x64(True):
        (on_diagonal, off_diagonal), gradients = values_and_gradients(*z)
        padded_values, padded_gradients = values_and_gradients(*np.pad(z, padding))
        np.testing.assert_allclose(padded_values, (on_diagonal + constant, off_diagonal), rtol=1e-12)
        for actual, expected in zip(padded_gradients, gradients, strict=True):
            np.testing.assert_allclose(actual, np.pad(expected, padding), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("batch", "dim", "forward", "both"), [(16, 40, 2, 4), (40, 16, 1, 3), (24, 24, 1, 3)])
def test_number_of_products_and_only_the_smaller_matrix(operations, batch, dim, forward, both):
    def loss(z_a, z_b):
        return barlow_twins_loss(z_a, z_b).loss

    z = jnp.zeros((batch, dim))
    for function, products in ((loss, forward), (jax.value_and_grad(loss, argnums=(0, 1)), both)):
        made = list(operations(jax.make_jaxpr(function)(z, z).jaxpr))
        factors = [e.invars[0].aval.shape + e.invars[1].aval.shape for e in made if e.primitive.name == "dot_general"]
        assert sum(min(shape) > MAX_LARGE for shape in factors) == products  # the others have a few columns
        shapes = {variable.aval.shape for e in made for variable in e.outvars}
        compiled = jax.jit(function).lower(z, z).compile().as_text()
        smaller, larger = sorted([batch, dim])
        assert (smaller, smaller) in shapes
        assert f"f32[{smaller},{smaller}]" in compiled
        if smaller < larger:
            assert (larger, larger) not in shapes
            assert f"[{larger},{larger}]" not in compiled


@pytest.mark.parametrize("shape", [(5, 12), pytest.param((12, 5), marks=SLOW)])
def test_invariances(shape):
    """To scale and shift of each dimension in each view, up to epsilon; to the order of views, rows and dimensions."""
    z_a, z_b = views(shape)
    rng = np.random.default_rng(1)
    scales, shifts = rng.uniform(0.1, 10, size=(2, 1, shape[1])), rng.normal(size=(2, 1, shape[1]))
    order, reverse = rng.permutation(shape[0]), slice(None, None, -1)
    loss = jax.jit(barlow_twins_loss)
    with jax.enable_x64(True):
        for epsilon, rtol in ((0.0, 1e-11), (1e-5, 1e-4)):
            same = loss(z_a * scales[0] + shifts[0], z_b * scales[1] + shifts[1], epsilon=epsilon)
            np.testing.assert_allclose(same, loss(z_a, z_b, epsilon=epsilon), rtol=rtol)
        for same in ((z_b, z_a), (z_a[order], z_b[order]), (z_a[:, reverse], z_b[:, reverse])):
            np.testing.assert_allclose(loss(*same), loss(z_a, z_b), rtol=1e-11)


@pytest.mark.parametrize("shape", [(4, 9), (8, 4)])
def test_identical_views(shape):
    """The diagonal is v / (v + epsilon) for a variance v."""
    z = views(shape)[0].astype(np.float32)
    (on_diagonal, off_diagonal), _ = values_and_gradients(z, z)
    assert on_diagonal < 1e-7
    (expected_on_diagonal, *_), (expected_off_diagonal, *_) = reference(z, z)
    np.testing.assert_allclose(on_diagonal, expected_on_diagonal, atol=1e-9)
    np.testing.assert_allclose(off_diagonal, expected_off_diagonal, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 9), (8, 4)])
def test_collapse(shape):
    """Constant embeddings correlate with nothing, and by symmetry their gradient is zero."""
    for value in (0.0, 0.3, 1e4):
        z = np.full(shape, value, np.float32)
        values, gradients = values_and_gradients(z, z)
        np.testing.assert_allclose(values, (shape[1], 0), atol=1e-6)
        np.testing.assert_allclose(gradients, 0, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 9), (12, 5)])
def test_duplicated_rows(shape):
    z_a, z_b = np.repeat(views((shape[0] // 2, shape[1])), 2, axis=1).astype(np.float32)
    values, gradients = values_and_gradients(z_a, z_b)
    for value, of_views, expected in zip(values, gradients, reference(z_a, z_b), strict=True):
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        for actual, of_view in zip(of_views, expected[1], strict=True):
            np.testing.assert_allclose(actual, of_view, rtol=0, atol=1e-5 * np.abs(of_view).max())


def test_never_negative():
    """One dimension varies: the two sums of the Gram form are equal, and rounding must not make it negative."""
    off_diagonal = jax.jit(lambda z_a, z_b: barlow_twins_loss(z_a, z_b, epsilon=1.0).off_diagonal)
    z = np.zeros((2, 3, 8), np.float32)
    for seed in range(20):
        z[:, :, 0] = views((3,), seed=seed)
        assert off_diagonal(*z) >= 0


@pytest.mark.parametrize("scale", [1e13, pytest.param(1e17, marks=pytest.mark.slow)])
def test_gradient_of_large_embeddings(scale):
    """The cube of the inverse standard deviation is below the smallest float32."""
    z_a, z_b = np.random.default_rng(0).normal(size=(2, 16, 8))
    gradient = jax.jit(jax.grad(lambda a, b: barlow_twins_loss(a, b, epsilon=0.0).loss))
    expected = gradient(z_a.astype(np.float32), z_b.astype(np.float32))
    actual = gradient((scale * z_a).astype(np.float32), (scale * z_b).astype(np.float32))
    np.testing.assert_allclose(actual * scale, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("alive", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_dimensions_that_alone_are_alive(alive):
    """If the other dimensions have collapsed, all that remains of a difference of large sums is a rounding error."""
    z_a, z_b = np.random.default_rng(0).normal(size=(2, 32, 128))
    for z in (z_a, z_b):
        z[:, alive:] *= 1e-6
    with jax.enable_x64(True):
        expected, expected_gradient = off_diagonal_and_gradient(z_a, z_b)
    value, gradient = off_diagonal_and_gradient(z_a.astype(np.float32), z_b.astype(np.float32))
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    error = np.abs(np.asarray(gradient) - np.asarray(expected_gradient)).max(axis=0)
    np.testing.assert_array_less(error, 1e-4 * np.abs(expected_gradient).max(axis=0))


@jax.jit
def off_diagonal_and_gradient(z_a, z_b):
    return jax.value_and_grad(lambda z_a: barlow_twins_loss(z_a, z_b).off_diagonal)(z_a)
