"""Exported once for every batch size, without constraints on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tests.losses.cases import CASES

QUICK = ("barlow_twins", "nt_xent")
DIM = 8


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CASES])
@pytest.mark.parametrize("masked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_program_for_every_batch_size(name, masked):
    """The export cannot know whether N < D: both sides of it give what the loss gives at that size."""
    loss, count = CASES[name]

    def value(z, where):
        return jax.tree.leaves(loss(*z, **({"where": where} if masked else {})))[0]

    program = jax.jit(jax.value_and_grad(value))
    (batch,) = export.symbolic_shape("batch")
    z = jax.ShapeDtypeStruct((count, batch, DIM), jnp.float32)
    exported = export.export(program)(z, jax.ShapeDtypeStruct((batch,), jnp.bool))
    for rows in (5, 12, 33):
        z, where = jax.random.normal(jax.random.key(rows), (count, rows, DIM)), jnp.arange(rows) % 4 > 0
        actual, expected = exported.call(z, where), program(z, where)
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, e, rtol=2e-4, atol=2e-6)
