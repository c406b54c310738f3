import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.losses.global_batch import GlobalBatch
from vicreg_jax.losses.similarity import log_similarity_sum, other_rows_log_sum

SLOW = pytest.mark.slow
VIEWS, BATCH, SETS, CANDIDATES, DIM = 2, 7, 3, 5, 4
EXCLUDED = np.array([1, 0, 4, 2, 2, 3, 0])


def problem():
    rng = np.random.default_rng(0)
    return rng.normal(size=(VIEWS, BATCH, DIM)), rng.normal(size=(SETS, CANDIDATES, DIM))


def reference(anchors, candidates, excluded, cotangent):
    """The log-sums, and the cotangents of anchors and candidates, in float64."""
    weights = np.exp(np.einsum("vnd,smd->vnsm", anchors, candidates))
    if excluded is not None:
        weights[:, np.arange(len(excluded)), :, excluded] = 0
    total = weights.sum(axis=(2, 3))
    weights *= (cotangent / total)[:, :, None, None]
    return np.log(total), (
        np.einsum("vnsm,smd->vnd", weights, candidates),
        np.einsum("vnsm,vnd->smd", weights, anchors),
    )


@pytest.mark.parametrize(
    ("excluded", "block_size"),
    [
        (None, None),
        (EXCLUDED, 3),
        *(pytest.param(*case, marks=SLOW) for case in [(None, 3), (EXCLUDED, 1), (EXCLUDED, 7), (EXCLUDED, 20)]),
    ],
)
def test_value_and_gradient_at_any_block_size(excluded, block_size):
    cotangent = np.random.default_rng(1).normal(size=(VIEWS, BATCH))

    def value_and_pull_back(*arguments):
        value, pull_back = jax.vjp(partial(log_similarity_sum, excluded=excluded, block_size=block_size), *arguments)
        return value, pull_back(cotangent)

    with jax.enable_x64(True):
        actual = jax.jit(value_and_pull_back)(*problem())
    expected = reference(*problem(), excluded, cotangent)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("batch", "block_size", "rows"), [(2048, None, 512), (30, None, 30), (2048, 16, 16)])
def test_a_block_bounds_the_similarities(operations, batch, block_size, rows):
    """By default a quarter of the batch, or 36 rows, which make 65,536 similarities."""
    anchors = jax.ShapeDtypeStruct((1, batch, 2), jnp.float32)
    candidates = jax.ShapeDtypeStruct((2, 900, 2), jnp.float32)

    def total(*arguments):
        return jnp.sum(log_similarity_sum(*arguments, block_size=block_size))

    for function in (total, jax.grad(total, argnums=(0, 1))):
        made = operations(jax.make_jaxpr(function)(anchors, candidates).jaxpr)
        max_size = max(math.prod(variable.aval.shape) for equation in made for variable in equation.outvars)
        assert rows / 2 * 1800 < max_size <= rows * 1800


def test_textbook_forms():
    """Values and gradients equal those of the forms in the docstrings."""

    def textbook_sum(anchors, candidates):
        return jnp.sum(jax.nn.logsumexp(jnp.einsum("vnd,smd->vnsm", anchors, candidates), axis=(2, 3)) ** 2)

    def textbook_other_rows(anchors, candidates):
        similarities = jnp.einsum("vnd,smd->vnsm", anchors, candidates)
        is_other_row = ~jnp.eye(BATCH, dtype=bool)[None, :, None]
        return jnp.sum(jax.nn.logsumexp(similarities, axis=(2, 3), where=is_other_row) ** 2)

    def our_sum(anchors, candidates):
        return jnp.sum(log_similarity_sum(anchors, candidates, block_size=4) ** 2)

    def our_other_rows(anchors, candidates):
        return jnp.sum(other_rows_log_sum(anchors, candidates, 4, GlobalBatch(None, BATCH)) ** 2)

    arrays = problem()
    for ours, textbook, arguments in (
        (our_sum, textbook_sum, arrays),
        (our_other_rows, textbook_other_rows, (arrays[0], arrays[0][::-1] + 1)),
    ):
        with jax.enable_x64(True):
            actual, expected = (jax.jit(jax.value_and_grad(f, (0, 1)))(*arguments) for f in (ours, textbook))
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-12)


def test_sums_beyond_the_range_of_exponentials():
    anchors = np.array([[[1e4], [-1e4], [1e-4]]], np.float32)
    candidates = np.array([[[1.0], [1.0]]], np.float32)
    expected = np.array([[1e4, -1e4, 1e-4]]) + np.log(2)
    np.testing.assert_allclose(jax.jit(log_similarity_sum)(anchors, candidates), expected, rtol=1e-6)


def test_every_candidate_excluded():
    """Half of the minimum finite number; gradient and second derivative are zero."""
    anchors, candidates = np.ones((1, 1, 2), np.float32), np.ones((2, 1, 2), np.float32)

    def total(*arguments):
        return jnp.sum(log_similarity_sum(*arguments, excluded=jnp.array([0])))

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(anchors, candidates)
    assert value == np.finfo(np.float32).min / 2
    assert not np.any(gradients[0])
    assert not np.any(gradients[1])

    def slope(*arguments):
        return sum(jnp.sum(gradient) for gradient in jax.grad(total, argnums=(0, 1))(*arguments))

    for gradient in jax.jit(jax.grad(slope, argnums=(0, 1)))(anchors, candidates):
        assert not np.any(gradient)
