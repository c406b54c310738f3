"""NT-Xent and the debiased loss, which share their logits."""

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

LOSSES = [nt_xent_loss, debiased_contrastive_loss]
# The least there are, N < D, N = D, N > D, the last in two blocks of which one is padded.
SHAPES = [(2, 2), (3, 1024), (16, 16), (512, 1024), (601, 5)]
# The correction of the debiased loss is a difference, and its digits go where little is left: not so at these.
TEMPERATURES = {nt_xent_loss: (0.1, 0.5), debiased_contrastive_loss: (0.5, 2.0)}
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-11}


def reference(loss, z_a, z_b, temperature, positive_prior=0.1):
    """Value and gradients by both views and by the temperature, from the formula, in float64.

    The last result is the least part of an anchor's negatives that the correction leaves, in either direction.
    """
    z = np.concatenate([z_a, z_b]).astype(np.float64)
    rows, batch = len(z), len(z) // 2
    length = np.linalg.norm(z, axis=1, keepdims=True)
    length[length == 0] = np.inf
    u = z / length
    anchors = np.arange(rows)
    its_positive = (anchors + batch) % rows
    logits = u @ u.T / temperature
    weights = np.exp(logits)
    positive = weights[anchors, its_positive]
    weights[anchors, anchors] = weights[anchors, its_positive] = 0
    negatives, count, least = weights.sum(axis=1), rows - 2, 0.0
    prior = positive_prior if loss is debiased_contrastive_loss else 0.0
    correction = prior * count * positive
    rest, above = (negatives - correction) / (1 - prior), np.ones(rows, bool)
    if loss is debiased_contrastive_loss:
        least = count * np.exp(-1 / temperature)
        above = rest > least
        rest = np.where(above, rest, least)
    # The derivative of each anchor's log(positive + rest) - log(positive) by the logits.
    by_logits = weights * (above / (1 - prior) / (positive + rest))[:, None] / rows
    by_logits[anchors, its_positive] = -(rest + above * correction / (1 - prior)) / (positive + rest) / rows
    by_u = (by_logits + by_logits.T) @ u / temperature
    by_z = (by_u - u * np.sum(by_u * u, axis=1, keepdims=True)) / length
    by_floor = np.sum(np.where(above, 0, least / temperature**2 / (positive + rest))) / rows
    by_temperature = by_floor - np.sum(by_logits * logits) / temperature
    left = np.min(np.abs(1 - correction / negatives))
    return np.mean(np.log1p(rest / positive)), (by_z[:batch], by_z[batch:], by_temperature), left


@cache
def compiled(loss, **settings):
    """Value and gradients by both views and by the temperature."""

    def value(z_a, z_b, temperature, **traced):
        return loss(z_a, z_b, temperature=temperature, **settings, **traced)

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))


def curvature(loss, temperature, direction, *views):
    """The derivative of the gradient along a direction: reverse over reverse, forward over reverse."""

    def gradient(*views):
        return jax.grad(partial(loss, temperature=temperature), argnums=(0, 1))(*views)

    def slope(*views):
        return sum(map(jnp.vdot, gradient(*views), direction))

    return jax.jit(lambda *views: (jax.grad(slope, argnums=(0, 1))(*views), jax.jvp(gradient, views, direction)[1]))(
        *views
    )


def reference_curvature(loss, temperature, direction, *z, **settings):
    """The same from differences of the reference's gradients."""
    z, direction = np.array(z, np.float64), np.array(direction, np.float64)
    ahead, behind = (reference(loss, *(z + h * direction), temperature, **settings)[1][:2] for h in (1e-5, -1e-5))
    return (np.array(ahead) - np.array(behind)) / 2e-5


def views(shape, seed=0, alike=0.5):
    z_a, noise = np.random.default_rng(seed).normal(size=(2, *shape))
    return z_a, alike * z_a + noise


def assert_close(actual, expected, tolerance):
    """Errors are relative to the largest entry of each array."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), e, rtol=0, atol=tolerance * np.abs(e).max())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_and_gradients(loss, shape, dtype):
    z_a, z_b = (z.astype(dtype) for z in views(shape))
    with jax.enable_x64(dtype == np.float64):
        for temperature in TEMPERATURES[loss]:
            value, gradients = compiled(loss)(z_a, z_b, temperature)
            expected, expected_gradients, _ = reference(loss, z_a, z_b, temperature)
            assert value.dtype == gradients[0].dtype == dtype
            assert_close((value, gradients[:2]), (expected, expected_gradients[:2]), TOLERANCE[dtype])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch", [2, 257])
def test_in_one_dimension_there_is_no_way_to_turn(loss, batch):
    z_a, z_b = (z.astype(np.float32) for z in views((batch, 1)))
    value, gradients = compiled(loss)(z_a, z_b, 0.5)
    assert_close(value, reference(loss, z_a, z_b, 0.5)[0], 1e-5)
    for gradient, z in zip(gradients[:2], (z_a, z_b), strict=True):
        np.testing.assert_allclose(gradient * z, 0, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from([np.float32, np.float64]),
    shape=st.sampled_from([(3, 8), (8, 3)]),
    scales=st.tuples(st.floats(-10, 10), st.floats(-10, 10)),
    temperature=st.floats(0.02, 2.0),
    alike=st.floats(-3.0, 3.0),
    positive_prior=st.floats(0.0, 0.5),
    seed=st.integers(0, 100),
)
def test_drawn_inputs(loss, dtype, shape, scales, temperature, alike, positive_prior, seed):
    z_a, z_b = ((10.0**scale * z).astype(dtype) for scale, z in zip(scales, views(shape, seed, alike), strict=True))
    traced = {"positive_prior": positive_prior} if loss is debiased_contrastive_loss else {}
    expected, expected_gradients, left = reference(loss, z_a, z_b, temperature, **traced)
    # A small difference of large sums is as inexact as they are; and a loss below the range of float32 is 0.
    assume(left > 0.1 and expected > 1e-30)
    with jax.enable_x64(dtype == np.float64):
        value, gradients = compiled(loss)(z_a, z_b, temperature, **traced)
    assert_close((value, gradients[:2]), (expected, expected_gradients[:2]), TOLERANCE[dtype])


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_by_the_temperature(loss):
    z_a, z_b = views((8, 3))
    with jax.enable_x64(True):
        for temperature in (0.1, 0.5):
            gradient = compiled(loss)(z_a, z_b, temperature)[1][2]
            np.testing.assert_allclose(gradient, reference(loss, z_a, z_b, temperature)[1][2], rtol=1e-11)


@pytest.mark.parametrize(
    ("loss", "block_size"),
    [(nt_xent_loss, 1), (nt_xent_loss, 4), (nt_xent_loss, 50), (debiased_contrastive_loss, 4)],
)
def test_blocks_change_nothing(loss, block_size):
    z_a, z_b = views((8, 3))
    with jax.enable_x64(True):
        actual = compiled(loss, block_size=block_size)(z_a, z_b, 0.5)
    assert_close(actual, reference(loss, z_a, z_b, 0.5)[:2], 1e-11)


@pytest.mark.parametrize(
    ("loss", "batch", "block_size"),
    [(nt_xent_loss, 1024, None), (debiased_contrastive_loss, 1024, None), (nt_xent_loss, 65536, 64)],
)
def test_memory_is_that_of_a_block(operations, loss, batch, block_size):
    """Less than one `N x 2N` array unless asked for, and 0.2 GB where that array is 32 GB."""
    jax.config.update("jax_disable_most_optimizations", False)
    dim, rows = 32, block_size or 256
    z = jax.ShapeDtypeStruct((batch, dim), jnp.float32)
    traced = jax.jit(jax.value_and_grad(partial(loss, block_size=block_size), argnums=(0, 1))).trace(z, z)
    largest = max(math.prod(v.aval.shape) for equation in operations(traced.jaxpr.jaxpr) for v in equation.outvars)
    assert largest <= max(rows, dim) * 2 * batch
    temporary = traced.lower().compile().memory_analysis().temp_size_in_bytes
    similarities, embeddings = rows * 2 * batch * 4, 2 * batch * dim * 4
    assert temporary <= 3 * similarities + 8 * embeddings
    assert temporary < batch * 2 * batch * 4


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("constant", [0.0, 0.3, 1e30])
def test_collapse_costs_the_logarithm_of_the_candidates(loss, temperature, constant):
    z = np.full((8, 3), constant, np.float32)
    value, gradients = compiled(loss)(z, z, temperature)
    np.testing.assert_allclose(value, np.log(15), rtol=1e-5)
    # By the unit vectors, a gradient is of the size 1 / temperature.
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


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("dtype", "scale"), [(jnp.float16, 1e4), (jnp.bfloat16, 1e30)])
def test_16_bit_inputs_give_the_float32_answer(loss, dtype, scale):
    """At this scale neither a square nor a length is in the range of the inputs."""
    z_a, z_b = (jnp.asarray(z * scale, dtype) for z in views((8, 3)))
    value, gradients = compiled(loss)(z_a, z_b, 0.1)
    expected, expected_gradients, _ = reference(loss, z_a, z_b, 0.1)
    assert value.dtype == jnp.float32
    assert_close(value, expected, 1e-5)
    assert gradients[0].dtype == gradients[1].dtype == dtype
    least = jnp.finfo(dtype).smallest_subnormal  # the spacing of the smallest gradients
    for a, e in zip(gradients[:2], expected_gradients[:2], strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), e, rtol=float(jnp.finfo(dtype).eps), atol=float(least))


@pytest.mark.parametrize("loss", LOSSES)
def test_views_of_different_precision(loss):
    z_a, z_b = (jnp.asarray(z, jnp.float32) for z in views((8, 3)))
    rounded = z_a.astype(jnp.bfloat16)
    value, gradients = compiled(loss)(rounded, z_b, 0.1)
    assert_close(value, reference(loss, rounded, z_b, 0.1)[0], 1e-5)
    assert (gradients[0].dtype, gradients[1].dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize(("loss", "temperature"), [(nt_xent_loss, 0.01), (debiased_contrastive_loss, 1 / 35)])
def test_tiny_losses_are_relatively_accurate(loss, temperature):
    """Views all but alike, negatives at a cosine of 0.3."""
    z_a = np.sqrt(0.7) * np.eye(6, 7)
    z_a[:, 6] = np.sqrt(0.3)
    z_a, z_b = (z.astype(np.float32) for z in (z_a, z_a + 0.01 * views((6, 7))[0]))
    value, gradients = compiled(loss)(z_a, z_b, temperature)
    expected, expected_gradients, _ = reference(loss, z_a, z_b, temperature)
    assert 1e-31 < expected < 1e-27
    assert_close((value, gradients), (expected, expected_gradients), 1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_row_has_nothing_to_tell_apart(loss):
    z_a, z_b = direction = tuple(z.astype(np.float32) for z in views((1, 3)))
    value, gradients = compiled(loss)(z_a, z_b, 0.1)
    assert value == 0
    assert not np.any(np.concatenate(gradients[:2]))
    assert gradients[2] == 0
    assert not np.any(curvature(loss, 0.1, direction, z_a, z_b))


@pytest.mark.parametrize("loss", LOSSES)
def test_second_derivative(loss):
    z, direction = views((4, 3), alike=0.0), views((4, 3), seed=1)
    assert reference(loss, *z, 1.0)[2] > 0.5  # no kink near by
    with jax.enable_x64(True):
        actual = curvature(partial(loss, block_size=3), 1.0, direction, *z)
    for a in actual:
        np.testing.assert_allclose(a, reference_curvature(loss, 1.0, direction, *z), atol=1e-8)


@pytest.mark.parametrize(
    ("loss", "settings"), [(nt_xent_loss, {}), (debiased_contrastive_loss, {"positive_prior": 0.0})]
)
def test_second_derivative_where_views_match_and_images_differ(loss, settings):
    """At 0.01 the similarity of an anchor to itself, which is left out, is far above all that is in the sum."""
    z = np.eye(2, 4, dtype=np.float32), np.eye(2, 4, 2, dtype=np.float32) * 0.8 + np.eye(2, 4, dtype=np.float32) * 0.6
    direction = tuple(d.astype(np.float32) for d in views((2, 4)))
    expected = reference_curvature(loss, 0.01, direction, *z, **settings)
    for a in curvature(partial(loss, **settings), 0.01, direction, *z):
        np.testing.assert_allclose(a, expected, atol=1e-4 * np.abs(expected).max())


def raises(error, *words):
    return pytest.raises(error, match=".*".join(re.escape(word) for word in words))


@pytest.mark.parametrize("loss", LOSSES)
def test_errors_name_the_argument(loss):
    z = jnp.ones((4, 3))
    with raises(ValueError, "z_a", "[batch, dim]", "(4, 3, 1)"):
        loss(z[..., None], z)
    with raises(ValueError, "z_b", "[batch, dim]", "(4,)"):
        loss(z, z[:, 0])
    with raises(ValueError, "z_b", "shape of z_a", "(4, 3)", "(1, 3)"):
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
        with raises(ValueError, "block_size", "None or an integer of at least 1", f"got {block_size}"):
            loss(z, z, block_size=block_size)
