"""NT-Xent, and the debiased contrastive loss where both behave alike: they share their logits."""

import math
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vicreg_jax.losses import debiased_contrastive_loss, nt_xent_loss

SLOW = pytest.mark.slow
LOSSES = [nt_xent_loss, debiased_contrastive_loss]
# Minimum size, N < D, N = D, N > D; the last has two blocks, one of them padded.
SHAPES = [(2, 2), *(pytest.param(s, marks=SLOW) for s in [(8, 3), (3, 1024), (16, 16), (512, 1024), (601, 5)])]
# The correction of the debiased loss is a difference that loses digits where it is small: it is not at these.
TEMPERATURES = {nt_xent_loss: (0.1, 0.5), debiased_contrastive_loss: (0.5, 2.0)}
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-11}


def reference(loss, z_a, z_b, temperature, positive_prior=0.1):
    """Value and gradients with respect to both views and the temperature, from the formula, in float64.

    The last result is the minimum over anchors of the fraction of the negatives that remains after the correction,
    of either sign.
    """
    z = np.concatenate([z_a, z_b]).astype(np.float64)
    rows, batch = len(z), len(z) // 2
    norm = np.linalg.norm(z, axis=1, keepdims=True)
    norm[norm == 0] = np.inf
    u = z / norm
    anchors = np.arange(rows)
    positives = (anchors + batch) % rows
    logits = u @ u.T / temperature
    weights = np.exp(logits)
    positive = weights[anchors, positives]
    weights[anchors, anchors] = weights[anchors, positives] = 0
    negatives, count, minimum = weights.sum(axis=1), rows - 2, 0.0
    prior = positive_prior if loss is debiased_contrastive_loss else 0.0
    correction = prior * count * positive
    rest, above = (negatives - correction) / (1 - prior), np.ones(rows, bool)
    if loss is debiased_contrastive_loss:
        minimum = count * np.exp(-1 / temperature)
        above = rest > minimum
        rest = np.where(above, rest, minimum)
    # The derivative of each anchor's log(positive + rest) - log(positive) by the logits.
    by_logits = weights * (above / (1 - prior) / (positive + rest))[:, None] / rows
    by_logits[anchors, positives] = -(rest + above * correction / (1 - prior)) / (positive + rest) / rows
    by_u = (by_logits + by_logits.T) @ u / temperature
    by_z = (by_u - u * np.sum(by_u * u, axis=1, keepdims=True)) / norm
    by_floor = np.sum(np.where(above, 0, minimum / temperature**2 / (positive + rest))) / rows
    by_temperature = by_floor - np.sum(by_logits * logits) / temperature
    remaining = np.min(np.abs(1 - correction / negatives))
    return np.mean(np.log1p(rest / positive)), (by_z[:batch], by_z[batch:], by_temperature), remaining


@cache
def compiled(loss, **settings):
    """Value and gradients with respect to both views and the temperature."""

    def value(z_a, z_b, temperature, **traced):
        return loss(z_a, z_b, temperature=temperature, **settings, **traced)

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))


def curvature(loss, temperature, direction, *views):
    """The derivative of the gradient along a direction: reverse over reverse and forward over reverse."""

    def gradient(*views):
        return jax.grad(partial(loss, temperature=temperature), argnums=(0, 1))(*views)

    def slope(*views):
        return sum(map(jnp.vdot, gradient(*views), direction))

    return jax.jit(lambda *views: (jax.grad(slope, argnums=(0, 1))(*views), jax.jvp(gradient, views, direction)[1]))(
        *views
    )


def reference_curvature(loss, temperature, direction, *z, **settings):
    """The same, from differences of the reference's gradients."""
    z, direction = np.array(z, np.float64), np.array(direction, np.float64)
    ahead, behind = (reference(loss, *(z + h * direction), temperature, **settings)[1][:2] for h in (1e-5, -1e-5))
    return (np.array(ahead) - np.array(behind)) / 2e-5


def views(shape, seed=0, alike=0.5):
    z_a, noise = np.random.default_rng(seed).normal(size=(2, *shape))
    return z_a, alike * z_a + noise


def assert_close(actual, expected, tolerance):
    """Errors are relative to the maximum of each array."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), e, rtol=0, atol=tolerance * np.abs(e).max())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=SLOW), np.float64])  # drawn inputs have both
def test_value_and_gradients(loss, shape, dtype):
    z_a, z_b = (z.astype(dtype) for z in views(shape))
    with jax.enable_x64(dtype == np.float64):
        for temperature in TEMPERATURES[loss]:
            value, gradients = compiled(loss)(z_a, z_b, temperature)
            expected, expected_gradients, _ = reference(loss, z_a, z_b, temperature)
            assert value.dtype == gradients[0].dtype == dtype
            assert_close((value, gradients[:2]), (expected, expected_gradients[:2]), TOLERANCE[dtype])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch", [2, pytest.param(257, marks=SLOW)])
def test_gradient_is_zero_in_one_dimension(loss, batch):
    z_a, z_b = (z.astype(np.float32) for z in views((batch, 1)))
    value, gradients = compiled(loss)(z_a, z_b, 0.5)
    assert_close(value, reference(loss, z_a, z_b, 0.5)[0], 1e-5)
    for gradient, z in zip(gradients[:2], (z_a, z_b), strict=True):
        np.testing.assert_allclose(gradient * z, 0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(8, 3), pytest.param((3, 8), marks=SLOW)])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from([np.float32, np.float64]),
    scales=st.tuples(st.floats(-10, 10), st.floats(-10, 10)),
    temperature=st.floats(0.02, 2.0),
    alike=st.floats(-3.0, 3.0),
    positive_prior=st.floats(0.0, 0.5),
    seed=st.integers(0, 100),
)
def test_drawn_inputs(loss, shape, dtype, scales, temperature, alike, positive_prior, seed):
    z_a, z_b = ((10.0**scale * z).astype(dtype) for scale, z in zip(scales, views(shape, seed, alike), strict=True))
    traced = {"positive_prior": positive_prior} if loss is debiased_contrastive_loss else {}
    expected, expected_gradients, remaining = reference(loss, z_a, z_b, temperature, **traced)
    # A small difference of large sums has their rounding error, and a loss below the range of float32 is 0.
    assume(remaining > 0.1 and expected > 1e-30)
    with jax.enable_x64(dtype == np.float64):
        value, gradients = compiled(loss)(z_a, z_b, temperature, **traced)
    assert_close((value, gradients[:2]), (expected, expected_gradients[:2]), TOLERANCE[dtype])


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_with_respect_to_the_temperature(loss):
    z_a, z_b = views((8, 3))
    with jax.enable_x64(True):
        for temperature in (0.1, 0.5):
            gradient = compiled(loss)(z_a, z_b, temperature)[1][2]
            np.testing.assert_allclose(gradient, reference(loss, z_a, z_b, temperature)[1][2], rtol=1e-11)


@pytest.mark.parametrize(
    ("loss", "block_size"),
    [
        (nt_xent_loss, 3),
        *(pytest.param(nt_xent_loss, size, marks=SLOW) for size in (1, 4, 50)),
        pytest.param(debiased_contrastive_loss, 4, marks=SLOW),
    ],
)
def test_value_does_not_depend_on_the_block_size(loss, block_size):
    z_a, z_b = views((8, 3))
    with jax.enable_x64(True):
        actual = compiled(loss, block_size=block_size)(z_a, z_b, 0.5)
    assert_close(actual, reference(loss, z_a, z_b, 0.5)[:2], 1e-11)


@pytest.mark.parametrize(
    ("loss", "batch", "block_size"),
    [
        (nt_xent_loss, 1024, None),
        pytest.param(debiased_contrastive_loss, 1024, None, marks=SLOW),
        pytest.param(nt_xent_loss, 65536, 64, marks=SLOW),
    ],
)
@pytest.mark.usefixtures("optimized")
def test_a_block_bounds_the_memory(operations, loss, batch, block_size):
    """Less than one `N x 2N` array by default, and 0.2 GB where that array has 32 GB."""
    dim, rows = 32, block_size or 256
    z = jax.ShapeDtypeStruct((batch, dim), jnp.float32)
    traced = jax.jit(jax.value_and_grad(partial(loss, block_size=block_size), argnums=(0, 1))).trace(z, z)
    max_size = max(math.prod(v.aval.shape) for equation in operations(traced.jaxpr.jaxpr) for v in equation.outvars)
    assert max_size <= max(rows, dim) * 2 * batch
    temporary = traced.lower().compile().memory_analysis().temp_size_in_bytes
    similarities, embeddings = rows * 2 * batch * 4, 2 * batch * dim * 4
    assert temporary <= 3 * similarities + 8 * embeddings
    assert temporary < batch * 2 * batch * 4


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("constant", [0.0, 0.3, 1e30])
def test_collapse_gives_the_logarithm_of_the_number_of_candidates(loss, temperature, constant):
    z = np.full((8, 3), constant, np.float32)
    value, gradients = compiled(loss)(z, z, temperature)
    np.testing.assert_allclose(value, np.log(15), rtol=1e-5)
    # The gradient with respect to unit vectors is of order 1 / temperature.
    np.testing.assert_allclose(np.array(gradients[:2]) * (constant or 1), 0, atol=1e-7 / temperature)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("rows", ["zero", "duplicated", "opposite", "large", "small", "large and small"])
def test_degenerate_rows(loss, temperature, rows):
    z_a, z_b = (z.astype(np.float32) for z in views((8, 3)))
    if rows == "zero":
        z_a[2] = z_b[2:4] = 0
    elif rows == "duplicated":
        z_a[4:], z_b[4:] = z_a[:4], z_b[:4]
    elif rows == "opposite":
        z_b = -z_a
    else:
        z_a *= np.float32(1e-15 if rows == "small" else 1e30)
        z_b *= np.float32(1e30 if rows == "large" else 1e-15)
    value, gradients = compiled(loss)(z_a, z_b, temperature)
    expected, expected_gradients, _ = reference(loss, z_a, z_b, temperature)
    assert_close((value, gradients), (expected, expected_gradients), 1e-5)


@pytest.mark.parametrize(
    ("loss", "dtype", "scale"),
    [
        (nt_xent_loss, jnp.float16, 1e4),
        pytest.param(nt_xent_loss, jnp.bfloat16, 1e30, marks=SLOW),
        pytest.param(debiased_contrastive_loss, jnp.float16, 1e4, marks=SLOW),
        pytest.param(debiased_contrastive_loss, jnp.bfloat16, 1e30, marks=SLOW),
    ],
)
def test_16_bit_inputs_give_the_float32_result(loss, dtype, scale):
    """At this scale squares and norms exceed the range of the inputs' dtype."""
    z_a, z_b = (jnp.asarray(z * scale, dtype) for z in views((8, 3)))
    value, gradients = compiled(loss)(z_a, z_b, 0.1)
    expected, expected_gradients, _ = reference(loss, z_a, z_b, 0.1)
    assert value.dtype == jnp.float32
    assert_close(value, expected, 1e-5)
    assert gradients[0].dtype == gradients[1].dtype == dtype
    spacing = jnp.finfo(dtype).smallest_subnormal  # of the smallest gradients
    for a, e in zip(gradients[:2], expected_gradients[:2], strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), e, rtol=float(jnp.finfo(dtype).eps), atol=float(spacing))


@pytest.mark.parametrize("loss", [nt_xent_loss, pytest.param(debiased_contrastive_loss, marks=SLOW)])
def test_views_of_different_precision(loss):
    z_a, z_b = (jnp.asarray(z, jnp.float32) for z in views((8, 3)))
    rounded = z_a.astype(jnp.bfloat16)
    value, gradients = compiled(loss)(rounded, z_b, 0.1)
    assert_close(value, reference(loss, rounded, z_b, 0.1)[0], 1e-5)
    assert (gradients[0].dtype, gradients[1].dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize(("loss", "temperature"), [(nt_xent_loss, 0.01), (debiased_contrastive_loss, 1 / 35)])
def test_tiny_losses_are_relatively_accurate(loss, temperature):
    """Almost equal views, negatives with a cosine of 0.3."""
    z_a = np.sqrt(0.7) * np.eye(6, 7)
    z_a[:, 6] = np.sqrt(0.3)
    z_a, z_b = (z.astype(np.float32) for z in (z_a, z_a + 0.01 * views((6, 7))[0]))
    value, gradients = compiled(loss)(z_a, z_b, temperature)
    expected, expected_gradients, _ = reference(loss, z_a, z_b, temperature)
    assert 1e-31 < expected < 1e-27
    assert_close((value, gradients), (expected, expected_gradients), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [debiased_contrastive_loss, pytest.param(nt_xent_loss, marks=SLOW)])
def test_one_row_without_negatives_has_no_loss(loss):
    z_a, z_b = direction = tuple(z.astype(np.float32) for z in views((1, 3)))
    value, gradients = compiled(loss)(z_a, z_b, 0.1)
    assert value == 0
    assert not np.any(np.concatenate(gradients[:2]))
    assert gradients[2] == 0
    assert not np.any(curvature(loss, 0.1, direction, z_a, z_b))


@pytest.mark.slow
@pytest.mark.parametrize("loss", [nt_xent_loss, pytest.param(debiased_contrastive_loss, marks=SLOW)])
def test_second_derivative(loss):
    z, direction = views((4, 3), alike=0.0), views((4, 3), seed=1)
    assert reference(loss, *z, 1.0)[2] > 0.5  # no kink nearby
    with jax.enable_x64(True):
        actual = curvature(partial(loss, block_size=3), 1.0, direction, *z)
    for a in actual:
        np.testing.assert_allclose(a, reference_curvature(loss, 1.0, direction, *z), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "settings"),
    [(nt_xent_loss, {}), pytest.param(debiased_contrastive_loss, {"positive_prior": 0.0}, marks=SLOW)],
)
def test_second_derivative_where_views_match_and_images_differ(loss, settings):
    """At 0.01 an anchor's similarity to itself, which is excluded, is far above every similarity in the sum."""
    z = np.eye(2, 4, dtype=np.float32), np.eye(2, 4, 2, dtype=np.float32) * 0.8 + np.eye(2, 4, dtype=np.float32) * 0.6
    direction = tuple(d.astype(np.float32) for d in views((2, 4)))
    expected = reference_curvature(loss, 0.01, direction, *z, **settings)
    for a in curvature(partial(loss, **settings), 0.01, direction, *z):
        np.testing.assert_allclose(a, expected, atol=1e-4 * np.abs(expected).max())


def test_textbook_form():
    """Value and gradients equal those of the form in the docstring."""

    def textbook(z_a, z_b):
        u = jnp.concatenate([z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (z_a, z_b)])
        logits = jnp.where(jnp.eye(10, dtype=bool), -jnp.inf, u @ u.T / 0.1)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(10), (jnp.arange(10) + 5) % 10])

    with jax.enable_x64(True):
        actual, expected = (jax.jit(jax.value_and_grad(f, (0, 1)))(*views((5, 3))) for f in (nt_xent_loss, textbook))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-13)


def test_value_and_gradients_equal_optax():
    optax = pytest.importorskip("optax")
    both = np.random.default_rng(0).normal(size=(2, 7, 5))

    def of_optax(z_a, z_b):
        return optax.losses.ntxent(jnp.concatenate([z_a, z_b]), jnp.tile(jnp.arange(7), 2), temperature=0.2)

    def ours(z_a, z_b):
        return nt_xent_loss(z_a, z_b, temperature=0.2)

    with jax.enable_x64(True):
        actual, expected = (jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(*both) for f in (ours, of_optax))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-12)


def test_half_of_the_official_sum():
    """It sums the cross-entropies of both directions, each over `[other view | own view without the anchor]`."""
    z_a, z_b = np.random.default_rng(1).normal(size=(2, 7, 5))

    def cross_entropy(anchors, others):
        own = anchors @ anchors.T / 0.1 - 1e9 * np.eye(7)
        exponentials = np.exp(np.concatenate([anchors @ others.T / 0.1, own], axis=1))
        return np.mean(-np.log(np.diag(exponentials) / exponentials.sum(axis=1)))

    u_a, u_b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z_a, z_b))
    official = cross_entropy(u_a, u_b) + cross_entropy(u_b, u_a)
    np.testing.assert_allclose(2 * jax.jit(nt_xent_loss)(z_a, z_b), official, rtol=1e-5)  # default temperature 0.1


def raises(error, *words):
    return pytest.raises(error, match=".*".join(re.escape(word) for word in words))


@pytest.mark.parametrize("loss", LOSSES)
def test_errors_name_the_argument(loss):
    z = jnp.ones((4, 3))
    with raises(ValueError, "z_a", "[batch, dim]", "(4, 3, 1)"):
        loss(z[..., None], z)
    with raises(ValueError, "z_b", "[batch, dim]", "(4,)"):
        loss(z, z[:, 0])
    with raises(ValueError, "z_b", "same shape as z_a", "(4, 3)", "(1, 3)"):
        loss(z, z[:1])
    with raises(ValueError, "z_a", "at least one", "(0, 3)"):
        loss(z[:0], z[:0])
    with raises(TypeError, "z_b", "floating", "int32"):
        loss(z, z.astype(int))
    for temperature in (0, -0.1, math.nan, np.float32(0), jnp.float32(0)):
        with raises(ValueError, "temperature", "above 0", f"got {temperature}"):
            loss(z, z, temperature=temperature)
    with raises(ValueError, "temperature", "scalar", "(4,)"):
        loss(z, z, temperature=jnp.ones(4))
    with raises(TypeError, "temperature", "number", "'warm'"):
        loss(z, z, temperature="warm")
    for block_size in (0, -1, 2.5):
        with raises(ValueError, "block_size", "None or a positive integer", f"got {block_size}"):
            loss(z, z, block_size=block_size)
