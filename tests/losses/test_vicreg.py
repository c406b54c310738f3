from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.losses import VICRegLoss, covariance_term, invariance_term, variance_term, vicreg_loss

SLOW = pytest.mark.slow
# N < D, N = D, N > D, odd and even, and the minimum size. Each shape compiles once.
SHAPES = [(5, 9), (2, 1), (3, 2), *(pytest.param(s, marks=SLOW) for s in [(6, 7), (7, 7), (8, 7), (9, 5), (2, 4)])]
GRID = [(3, 4), *(pytest.param(s, marks=SLOW) for s in [(2, 1024), (32, 32), (257, 33), (512, 1024)])]

compiled_loss = jax.jit(vicreg_loss)


def reference(z_a, z_b, target_std=1.0, epsilon=1e-4):
    """Each term of the official code and its gradients, written by hand in float64."""
    z_a, z_b = np.asarray(z_a, np.float64), np.asarray(z_b, np.float64)
    batch, dim = z_a.shape
    invariance = np.sum((z_a - z_b) ** 2) / (batch * dim)
    gradient = 2 * (z_a - z_b) / (batch * dim)
    variance, covariance, gradients = 0.0, 0.0, [[gradient], [-gradient]]
    for z, of_view in zip((z_a, z_b), gradients, strict=True):
        centered = z - z.mean(axis=0)
        matrix = centered.T @ centered / (batch - 1)
        std = np.sqrt(np.diag(matrix) + epsilon)
        variance += np.sum(np.maximum(0, target_std - std)) / dim / 2
        of_view.append(-1.0 * (std < target_std) / std * centered / (batch - 1) / dim / 2)
        np.fill_diagonal(matrix, 0)
        covariance += np.sum(matrix**2) / dim
        of_view.append(4 * centered @ matrix / (batch - 1) / dim)
    return (invariance, variance, covariance), gradients


def views(shape, scale=1.0, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(shift, scale, size=(2, *shape))


@jax.jit
def values_and_gradients(z_a, z_b, **settings):
    """The three terms, and the gradients of each with respect to each view."""

    def terms(z_a, z_b):
        return vicreg_loss(z_a, z_b, **settings)[1:]

    values, pull_back = jax.vjp(terms, z_a, z_b)
    unit = np.eye(3, dtype=values[0].dtype)
    gradients = [pull_back(tuple(unit[i])) for i in range(3)]
    return values, list(zip(*gradients, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    scale=st.floats(1e-3, 30.0),
    shift=st.floats(-3.0, 3.0),
    seed=st.integers(0, 100),
)
def test_values_and_gradients_in_float64(shape, scale, shift, seed):
    z_a, z_b = views(shape, scale, shift, seed)
    with jax.enable_x64(True):
        actual = values_and_gradients(z_a, z_b)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(reference(z_a, z_b)), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-12 * max(1, scale) ** 4)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-5), (np.float64, 1e-11)])
@pytest.mark.parametrize("shape", GRID)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(scale=st.floats(0.1, 3), shift=st.floats(-3, 3), seed=st.integers(0, 1000))
def test_grid_of_shapes(shape, dtype, rtol, scale, shift, seed):
    z_a, z_b = views(shape, scale, scale * shift, seed).astype(dtype)
    settings = {"target_std": dtype(1.1), "epsilon": dtype(1e-3)}
    with jax.enable_x64(dtype == np.float64):
        values, gradients = values_and_gradients(z_a, z_b, **settings)
    expected, expected_gradients = reference(z_a, z_b, **settings)
    for actual, value in zip(values, expected, strict=True):
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual, value, rtol=rtol)
    for actual, gradient in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(actual, gradient, rtol=0, atol=rtol * np.abs(gradient).max())


def test_result_and_terms_of_one_view():
    z_a, z_b = views((6, 9)).astype(np.float32)
    loss = compiled_loss(z_a, z_b)
    assert isinstance(loss, VICRegLoss)
    assert loss._fields == ("loss", "invariance", "variance", "covariance")
    assert all(scalar.shape == () and scalar.dtype == np.float32 for scalar in loss)
    np.testing.assert_allclose(loss.invariance, invariance_term(z_a, z_b), rtol=1e-6)
    np.testing.assert_allclose(loss.variance, variance_term(z_a) / 2 + variance_term(z_b) / 2, rtol=1e-6)
    np.testing.assert_allclose(loss.covariance, covariance_term(z_a) + covariance_term(z_b), rtol=1e-6)
    weighted = compiled_loss(z_a, z_b, invariance_weight=2.0, variance_weight=3.0, covariance_weight=5.0)
    expected = 2 * loss.invariance + 3 * loss.variance + 5 * loss.covariance
    np.testing.assert_allclose(weighted.loss, expected, rtol=1e-6)
    assert weighted[1:] == loss[1:]


def test_paper_form_with_half_the_variance_weight_is_the_official_form():
    """Algorithm 1 of the paper, where the variance is not halved, with weights (25, 12.5, 1)."""
    z_a, z_b = views((12, 20))

    def paper(z):
        std = np.sqrt(z.var(axis=0, ddof=1) + 1e-4)
        covariance = np.cov(z, rowvar=False)
        off_diagonal = covariance[~np.eye(20, dtype=bool)]
        return np.mean(np.maximum(0, 1 - std)), np.sum(off_diagonal**2) / 20

    (variance_a, covariance_a), (variance_b, covariance_b) = paper(z_a), paper(z_b)
    invariance = np.mean((z_a - z_b) ** 2)
    expected = 25 * invariance + 12.5 * (variance_a + variance_b) + covariance_a + covariance_b
    np.testing.assert_allclose(compiled_loss(z_a, z_b).loss, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(5, 12), pytest.param((12, 5), marks=SLOW)])
def test_invariances(shape):
    z_a, z_b = views(shape).astype(np.float32)
    loss = compiled_loss(z_a, z_b)
    order = np.random.default_rng(1).permutation(shape[0])
    shift = np.linspace(-2, 2, shape[1], dtype=np.float32)
    for same in (
        compiled_loss(z_b, z_a),
        compiled_loss(z_a[order], z_b[order]),
        compiled_loss(z_a + shift, z_b + shift),
        compiled_loss(z_a[:, ::-1], z_b[:, ::-1]),
    ):
        np.testing.assert_allclose(same, loss, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 9), (8, 4)])
def test_collapse_has_the_maximum_variance_term_and_finite_gradients(shape):
    for value in (0.0, 0.3, 1e4):
        z = np.full(shape, value, np.float32)
        values, gradients = values_and_gradients(z, z)
        np.testing.assert_allclose(values, (0, 0.99, 0), atol=1e-6)
        np.testing.assert_allclose(gradients, 0, atol=1e-6)
        np.testing.assert_allclose(compiled_loss(z, z).loss, 24.75, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 9), (8, 4)])
def test_duplicated_rows(shape):
    z_a, z_b = np.repeat(views((shape[0] // 2, shape[1])), 2, axis=1).astype(np.float32)
    actual = values_and_gradients(z_a, z_b)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(reference(z_a, z_b)), strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("dtype", "shape"), [(jnp.float16, (16, 24)), pytest.param(jnp.bfloat16, (24, 16), marks=SLOW)]
)
def test_large_16_bit_inputs_are_reduced_in_float32(dtype, shape):
    """At this scale covariances overflow float16. Gradients have the dtype of the input."""
    z_a, z_b = jnp.asarray(views(shape, scale=300, shift=1000), dtype)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(z_a, z_b):
        terms = vicreg_loss(z_a, z_b, covariance_weight=1e-6)
        return terms.loss, terms

    (_, terms), gradient = loss(z_a, z_b)
    expected, gradients = reference(z_a, z_b)
    assert all(scalar.dtype == jnp.float32 for scalar in terms)
    np.testing.assert_allclose(terms[1:], expected, rtol=1e-4)
    assert gradient.dtype == dtype
    expected_gradient = 25 * gradients[0][0] + 25 * gradients[0][1] + 1e-6 * gradients[0][2]
    tolerance = 2 * float(jnp.finfo(dtype).eps)
    scale = np.abs(expected_gradient).max()
    np.testing.assert_allclose(np.asarray(gradient, np.float64), expected_gradient, atol=tolerance * scale)


def test_views_of_different_precision():
    z_a, z_b = jnp.asarray(views((4, 6)), jnp.float32)
    rounded = z_a.astype(jnp.bfloat16)
    expected = compiled_loss(rounded.astype(jnp.float32), z_b)
    np.testing.assert_allclose(compiled_loss(rounded, z_b), expected, rtol=1e-6)


def test_traced_weights():
    """Weights on a schedule need no recompilation and have a gradient."""
    z_a, z_b = views((4, 6)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda weight: vicreg_loss(z_a, z_b, covariance_weight=weight).loss))(2.0)
    np.testing.assert_allclose(gradient, compiled_loss(z_a, z_b).covariance, rtol=1e-6)


def test_independent_features_have_the_batch_floor():
    """The expectation of the covariance term is (D - 1) / (N - 1), and not zero."""
    z = np.random.default_rng(0).normal(size=(128, 1024)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(covariance_term)(z), 1023 / 127, rtol=0.02)
