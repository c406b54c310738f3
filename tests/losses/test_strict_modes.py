"""The losses in programs that turn on JAX's strict modes."""

from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.losses.cases import CASES, COVERED
from vicreg_jax import losses

SLOW = pytest.mark.slow
PROMOTION = (lambda: jax.numpy_rank_promotion("raise"), lambda: jax.numpy_dtype_promotion("strict"))
DEBUGGING = (lambda: jax.debug_nans(True), lambda: jax.debug_infs(True), jax.checking_leaks)


@pytest.fixture
def strict():
    """Turns on some modes for the rest of the test."""
    with ExitStack() as stack:
        yield lambda modes: [stack.enter_context(mode()) for mode in modes]


def value_and_gradients(name, z, **rows):
    loss = CASES[name][0]
    return jax.value_and_grad(lambda z: jax.tree.leaves(loss(*z, **rows))[0])(list(z))


def embeddings(name, shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(0).normal(size=(CASES[name][1], *shape)), dtype)


def test_every_loss_has_a_case():
    others = {"corinfomax_state", "in_microbatches"} | {n for n in losses.__all__ if n[0].isupper()}  # and types
    assert set(losses.__all__) - others == COVERED


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("shape", "dtype", "masked"),
    [
        ((6, 9), jnp.bfloat16, True),
        *(pytest.param(*c, marks=SLOW) for c in [((6, 9), jnp.float32, False), ((9, 6), jnp.float32, True)]),
    ],
)
def test_promotion(strict, shape, dtype, masked, name):
    """Neither ranks nor dtypes are promoted implicitly; promotion depends on shapes and dtypes alone."""
    strict(PROMOTION)
    rows = {"where": jnp.ones(shape[0], bool)} if masked else {}
    jax.make_jaxpr(lambda z, rows: value_and_gradients(name, z, **rows))(embeddings(name, shape, dtype), rows)


@pytest.mark.parametrize("shape", [(6, 9), pytest.param((9, 6), marks=SLOW)])
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "triplet" else SLOW) for name in CASES])
def test_debugging(strict, name, shape):
    """Without jit, every intermediate result is checked."""
    strict(DEBUGGING)
    z = embeddings(name, shape)
    value, gradients = value_and_gradients(name, z, where=jnp.arange(shape[0]) > 1)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradients))
