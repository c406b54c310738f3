import math
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from vicreg_jax.losses import info_nce_loss

SLOW = pytest.mark.slow
# Batch, negatives and dim, each once the minimum and once the maximum; the last has three blocks, one of them padded.
LARGE_SHAPES = [(7, 3, 2), (3, 65, 1024), (16, 16, 16), (512, 5, 64), (257, 4096, 3)]
SHAPES = [(2, 1, 2), *(pytest.param(s, marks=SLOW) for s in LARGE_SHAPES)]
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-11}


def reference(query, positive_key, negative_keys, temperature):
    """Value and gradients with respect to the three arrays and the temperature, from the formula, in float64."""
    arrays = [np.asarray(z, np.float64) for z in (query, positive_key, negative_keys)]
    norms = [np.linalg.norm(z, axis=1, keepdims=True) for z in arrays]
    for norm in norms:
        norm[norm == 0] = np.inf
    q, k, n = units = [z / norm for z, norm in zip(arrays, norms, strict=True)]
    positive_logit, logits = np.sum(q * k, axis=1) / temperature, q @ n.T / temperature
    positive, negatives = np.exp(positive_logit), np.exp(logits)
    total = positive + negatives.sum(axis=1)
    by_logits = negatives / total[:, None] / len(q)
    by_positive = -by_logits.sum(axis=1, keepdims=True)  # 1 - its weight, without cancellation
    by_units = [
        (by_logits @ n + by_positive * k) / temperature,
        by_positive * q / temperature,
        by_logits.T @ q / temperature,
    ]
    gradients = [
        (g - u * np.sum(g * u, axis=1, keepdims=True)) / norm for g, u, norm in zip(by_units, units, norms, strict=True)
    ]
    by_temperature = -(np.sum(by_logits * logits) + by_positive[:, 0] @ positive_logit) / temperature
    return np.mean(np.log1p(negatives.sum(axis=1) / positive)), (*gradients, by_temperature)


@cache
def compiled(**settings):
    def value(query, positive_key, negative_keys, temperature):
        return info_nce_loss(query, positive_key, negative_keys, temperature=temperature, **settings)

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2, 3)))


def embeddings(shape, seed=0, alike=0.5):
    batch, negatives, dim = shape
    rng = np.random.default_rng(seed)
    query, noise = rng.normal(size=(2, batch, dim))
    return query, alike * query + noise, rng.normal(size=(negatives, dim))


def assert_close(actual, expected, tolerance):
    """Errors are relative to the maximum of each array."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), e, rtol=0, atol=tolerance * np.abs(e).max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_and_gradients(shape, dtype):
    arguments = [z.astype(dtype) for z in embeddings(shape)]
    with jax.enable_x64(dtype == np.float64):
        for temperature in (0.07, 0.5):
            value, gradients = compiled()(*arguments, temperature)
            expected, expected_gradients = reference(*arguments, temperature)
            assert value.dtype == gradients[2].dtype == dtype
            assert_close((value, gradients[:3]), (expected, expected_gradients[:3]), TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7, 3, 2), pytest.param((3, 7, 9), marks=SLOW)])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from([np.float32, np.float64]),
    scales=st.tuples(*[st.floats(-10, 10)] * 3),
    temperature=st.floats(0.02, 2.0),
    alike=st.floats(-3.0, 3.0),
    seed=st.integers(0, 100),
)
def test_drawn_inputs(shape, dtype, scales, temperature, alike, seed):
    arguments = [
        (10.0**scale * z).astype(dtype) for scale, z in zip(scales, embeddings(shape, seed, alike), strict=True)
    ]
    with jax.enable_x64(dtype == np.float64):
        value, gradients = compiled()(*arguments, temperature)
    expected, expected_gradients = reference(*arguments, temperature)
    assert_close((value, gradients[:3]), (expected, expected_gradients[:3]), TOLERANCE[dtype])


def test_gradient_with_respect_to_the_temperature():
    arguments = embeddings((7, 3, 2))
    with jax.enable_x64(True):
        for temperature in (0.07, 0.5):
            actual, expected = (f(*arguments, temperature)[1][3] for f in (compiled(), reference))
            np.testing.assert_allclose(actual, expected, rtol=1e-11)


def test_textbook_form():
    """Value and gradients equal those of the form in the docstring."""

    def textbook(query, positive_key, negative_keys):
        q, k, n = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (query, positive_key, negative_keys))
        logits = jnp.concatenate([jnp.sum(q * k, axis=1, keepdims=True), q @ n.T], axis=1) / 0.07
        return -jnp.mean(jax.nn.log_softmax(logits)[:, 0])

    with jax.enable_x64(True):
        actual, expected = (
            jax.jit(jax.value_and_grad(f, (0, 1, 2)))(*embeddings((4, 3, 5))) for f in (info_nce_loss, textbook)
        )
    assert_close(actual, expected, 1e-11)


def test_default_temperature():
    arguments = [z.astype(np.float32) for z in embeddings((7, 3, 2))]
    np.testing.assert_allclose(jax.jit(info_nce_loss)(*arguments), reference(*arguments, 0.07)[0], rtol=1e-5)


def test_stopped_keys_do_not_change_the_gradient_of_the_query():
    arguments = [z.astype(np.float32) for z in embeddings((7, 3, 2))]

    def stopped(query, positive_key, negative_keys):
        return info_nce_loss(query, *lax.stop_gradient((positive_key, negative_keys)))

    by_query, *by_keys = jax.jit(jax.grad(stopped, argnums=(0, 1, 2)))(*arguments)
    assert_close(by_query, reference(*arguments, 0.07)[1][0], 1e-5)
    assert not any(np.any(gradient) for gradient in by_keys)


@pytest.mark.parametrize("block_size", [3, *(pytest.param(size, marks=SLOW) for size in (1, 50))])
def test_value_does_not_depend_on_the_block_size(block_size):
    arguments = embeddings((7, 3, 2))
    with jax.enable_x64(True):
        actual = compiled(block_size=block_size)(*arguments, 0.5)
    assert_close(actual, reference(*arguments, 0.5), 1e-11)


@pytest.mark.usefixtures("optimized")
@pytest.mark.slow
def test_a_block_bounds_the_memory_of_a_long_queue():
    """Blocks of 16 of 256 queries, against 65,536 keys."""
    batch, negatives, dim, block_size = 256, 65536, 16, 16
    query, queue = (jax.ShapeDtypeStruct((rows, dim), jnp.float32) for rows in (batch, negatives))
    loss = partial(info_nce_loss, block_size=block_size)
    program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(query, query, queue).compile()
    temporary = program.memory_analysis().temp_size_in_bytes
    assert temporary <= 3 * block_size * negatives * 4 + 6 * negatives * dim * 4
    assert temporary < batch * negatives * 4 / 2


@pytest.mark.parametrize("temperature", [0.01, 1.0])
@pytest.mark.parametrize("constant", [0.0, 0.3, 1e30])
def test_collapse_gives_the_logarithm_of_the_number_of_candidates(temperature, constant):
    z = np.full((7, 2), constant, np.float32)
    value, gradients = compiled()(z, z, z[:3], temperature)
    np.testing.assert_allclose(value, np.log(4), rtol=1e-5)
    # The gradient with respect to unit vectors is of order 1 / temperature.
    for gradient in gradients[:3]:
        np.testing.assert_allclose(gradient * np.float32(constant or 1), 0, atol=1e-7 / temperature)


@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("rows", ["zero", "duplicated", "opposite", "large", "small", "large and small"])
def test_degenerate_rows(temperature, rows):
    query, positive_key, negative_keys = arguments = [z.astype(np.float32) for z in embeddings((7, 3, 2))]
    if rows == "zero":
        query[2] = positive_key[2:4] = negative_keys[1] = 0
    elif rows == "duplicated":
        query[6], positive_key[3:6], negative_keys[1] = query[5], query[3:6], negative_keys[0]
    elif rows == "opposite":
        positive_key[:3], negative_keys[:2] = -query[:3], query[:2]
    else:
        query *= np.float32(1e30 if rows == "large" else 1e-15)
        positive_key *= np.float32(1e-15 if rows == "small" else 1e30)
        negative_keys *= np.float32(1e30 if rows == "large" else 1e-15)
    assert_close(compiled()(*arguments, temperature), reference(*arguments, temperature), 1e-5)


@pytest.mark.parametrize(("dtype", "scale"), [(jnp.float16, 1e4), pytest.param(jnp.bfloat16, 1e30, marks=SLOW)])
def test_16_bit_inputs_give_the_float32_result(dtype, scale):
    """At this scale squares and norms exceed the range of the inputs' dtype."""
    arguments = [jnp.asarray(z * scale, dtype) for z in embeddings((7, 3, 2))]
    value, gradients = compiled()(*arguments, 0.1)
    expected, expected_gradients = reference(*arguments, 0.1)
    assert value.dtype == jnp.float32
    assert_close(value, expected, 1e-5)
    # These gradients are so small that the spacing of subnormal numbers limits them.
    relative, absolute = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).smallest_subnormal)
    for a, e in zip(gradients[:3], expected_gradients[:3], strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(np.asarray(a, np.float64), e, rtol=relative, atol=absolute)


def test_a_queue_of_another_precision():
    query, positive_key, negative_keys = (jnp.asarray(z, jnp.float32) for z in embeddings((7, 3, 2)))
    rounded = negative_keys.astype(jnp.bfloat16)
    value, gradients = compiled()(query, positive_key, rounded, 0.1)
    assert_close(value, reference(query, positive_key, rounded, 0.1)[0], 1e-5)
    assert [g.dtype for g in gradients[:3]] == [jnp.float32, jnp.float32, jnp.bfloat16]


def test_tiny_losses_are_relatively_accurate():
    """Keys almost equal to the queries, negatives with a cosine of 0.3: 1 + 1e-30 is 1 in float32."""
    query = np.eye(4, 7)
    positive_key = query + 0.01 * embeddings((4, 3, 7))[0]
    negative_keys = 0.3 * query[:3] + np.sqrt(1 - 0.3**2) * np.eye(3, 7, 4)
    arguments = [z.astype(np.float32) for z in (query, positive_key, negative_keys)]
    value, gradients = compiled()(*arguments, 0.01)
    expected, expected_gradients = reference(*arguments, 0.01)
    assert 1e-31 < expected < 1e-29
    assert_close((value, gradients), (expected, expected_gradients), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "temperature"), [(np.float64, 0.5), pytest.param(np.float32, 0.01, marks=SLOW)])
def test_second_derivative(dtype, temperature):
    """Reverse over reverse and forward over reverse, against differences of the reference's gradients."""
    arguments, direction = (
        tuple(z.astype(dtype) for z in embeddings((4, 3, 5), seed=seed, alike=2.0)) for seed in (0, 1)
    )

    def gradient(*arguments):
        return jax.grad(partial(info_nce_loss, temperature=temperature, block_size=3), argnums=(0, 1, 2))(*arguments)

    def slope(*arguments):
        return sum(map(jnp.vdot, gradient(*arguments), direction))

    with jax.enable_x64(dtype == np.float64):
        reverse = jax.jit(jax.grad(slope, argnums=(0, 1, 2)))(*arguments)
        forward = jax.jit(lambda *arguments: jax.jvp(gradient, arguments, direction)[1])(*arguments)
    ahead, behind = (
        reference(*(z + step * d.astype(np.float64) for z, d in zip(arguments, direction, strict=True)), temperature)[1]
        for step in (1e-6, -1e-6)
    )
    expected = [(a - b) / 2e-6 for a, b in zip(ahead[:3], behind[:3], strict=True)]
    assert_close(reverse, expected, 1e-7 if dtype == np.float64 else 1e-4)
    assert_close(forward, expected, 1e-7 if dtype == np.float64 else 1e-4)


def raises(error, *words):
    return pytest.raises(error, match=".*".join(re.escape(word) for word in words))


def test_errors_name_the_argument():
    z, queue = jnp.ones((4, 3)), jnp.ones((5, 3))
    with raises(ValueError, "query", "[batch, dim]", "(4, 3, 1)"):
        info_nce_loss(z[..., None], z, queue)
    with raises(ValueError, "positive_key", "same shape as query", "(4, 3)", "(1, 3)"):
        info_nce_loss(z, z[:1], queue)
    with raises(ValueError, "query", "at least one", "(0, 3)"):
        info_nce_loss(z[:0], z[:0], queue)
    with raises(ValueError, "negative_keys", "at least one", "(0, 3)"):
        info_nce_loss(z, z, queue[:0])
    with raises(ValueError, "negative_keys", "dim of query, 3", "(5, 2)"):
        info_nce_loss(z, z, queue[:, :2])
    with raises(ValueError, "negative_keys", "[batch, dim]", "(3,)"):
        info_nce_loss(z, z, queue[0])
    with raises(TypeError, "negative_keys", "floating", "int32"):
        info_nce_loss(z, z, queue.astype(int))
    with raises(TypeError, "positive_key", "floating", "bool"):
        info_nce_loss(z, z > 0, queue)
    for temperature in (0, -0.1, math.nan):
        with raises(ValueError, "temperature", "above 0", f"got {temperature}"):
            info_nce_loss(z, z, queue, temperature=temperature)
    with raises(ValueError, "block_size", "None or a positive integer", "got 0"):
        info_nce_loss(z, z, queue, block_size=0)


def in_batch_reference(query, key, symmetric):
    """CLIP's loss from the N x N logits, and its gradients with respect to queries and keys, in float64."""
    norms = [np.linalg.norm(z, axis=1, keepdims=True) for z in (query, key)]
    u, v = query / norms[0], key / norms[1]
    logits, n = u @ v.T / 0.07, len(u)
    directions = ((1, 0), (0, 1)) if symmetric else ((1,),)
    losses, by_logits = [], np.zeros_like(logits)
    for axis, *_ in directions:
        softmax = np.exp(logits - logits.max(axis=axis, keepdims=True))
        softmax /= softmax.sum(axis=axis, keepdims=True)
        losses.append(-np.mean(np.log(np.diag(softmax))))
        by_logits += (softmax - np.eye(n)) / n / len(directions)
    by_units = by_logits @ v / 0.07, by_logits.T @ u / 0.07
    gradients = [
        (g - w * np.sum(g * w, axis=1, keepdims=True)) / r for g, w, r in zip(by_units, (u, v), norms, strict=True)
    ]
    return np.mean(losses), gradients


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("shape", "block_size"), [((7, 5), 3), pytest.param((64, 9), None, marks=pytest.mark.slow)])
def test_negatives_in_the_batch(symmetric, shape, block_size):
    query, key = np.random.default_rng(0).normal(size=(2, *shape))
    loss = partial(info_nce_loss, symmetric=symmetric, block_size=block_size)
    with jax.enable_x64(True):
        value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(query, key)
    expected, expected_gradients = in_batch_reference(query, key, symmetric)
    np.testing.assert_allclose(value, expected, rtol=1e-11)
    for actual, gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(actual, gradient, rtol=1e-9, atol=1e-12)


def test_negatives_of_each_query():
    """Equal to one call for each query with shared negatives."""
    rng = np.random.default_rng(0)
    query, key, negatives = rng.normal(size=(4, 5)), rng.normal(size=(4, 5)), rng.normal(size=(4, 3, 5))

    def one_by_one(*arguments):
        return jnp.mean(jax.vmap(lambda q, k, n: info_nce_loss(q[None], k[None], n))(*arguments))

    with jax.enable_x64(True):
        ours, expected = (
            jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(query, key, negatives)
            for f in (info_nce_loss, one_by_one)
        )
    for actual, e in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(actual, e, rtol=1e-11, atol=1e-13)


def test_errors_of_negatives():
    z = jnp.ones((4, 3))
    with pytest.raises(ValueError, match="symmetric must be False with negative_keys"):
        info_nce_loss(z, z, z, symmetric=True)
    with pytest.raises(ValueError, match=r"negative_keys must have shape .* batch of query, 4; got shape \(5, 2, 3\)"):
        info_nce_loss(z, z, jnp.ones((5, 2, 3)))
    with pytest.raises(ValueError, match=r"negative_keys must have the dim of query, 3; got shape \(4, 2, 5\)"):
        info_nce_loss(z, z, jnp.ones((4, 2, 5)))
    with pytest.raises(TypeError, match="negative_keys must have a floating-point dtype; got dtype int32"):
        info_nce_loss(z, z, jnp.ones((4, 2, 3), jnp.int32))
