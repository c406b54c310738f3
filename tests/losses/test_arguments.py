import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from vicreg_jax.losses import covariance_term, invariance_term, variance_term, vicreg_loss

Z = jnp.ones((4, 3))
PAIRS = (vicreg_loss, invariance_term)
SINGLES = (variance_term, covariance_term)
BATCH_STATISTICS = (partial(vicreg_loss, Z[:1]), *SINGLES)


def raises(error, *words):
    return pytest.raises(error, match=".*".join(re.escape(word) for word in words))


@pytest.mark.parametrize("loss", PAIRS)
def test_errors_name_the_argument_of_a_pair(loss):
    with raises(ValueError, "z_a", "[batch, dim]", "(4, 3, 1)"):
        loss(Z[..., None], Z)
    with raises(ValueError, "z_b", "[batch, dim]", "(4,)"):
        loss(Z, Z[:, 0])
    with raises(ValueError, "z_b", "shape of z_a", "(4, 3)", "(4, 2)"):
        loss(Z, Z[:, :2])
    with raises(ValueError, "z_b", "shape of z_a", "(4, 3)", "(1, 3)"):  # no broadcasting
        loss(Z, Z[:1])
    with raises(TypeError, "z_b", "floating", "int32"):
        loss(Z, Z.astype(int))
    with raises(ValueError, "z_a", "at least one", "(0, 3)"):
        loss(Z[:0], Z[:0])


@pytest.mark.parametrize("term", SINGLES)
def test_errors_name_the_argument_of_one_view(term):
    with raises(ValueError, "z ", "[batch, dim]", "(3,)"):
        term(Z[0])
    with raises(TypeError, "z ", "floating", "complex64"):
        term(Z.astype(complex))
    with raises(TypeError, "z ", "floating", "bool"):
        term(Z > 0)
    with raises(ValueError, "z ", "at least one", "(4, 0)"):
        term(Z[:, :0])


@pytest.mark.parametrize("loss", BATCH_STATISTICS)
def test_batch_statistics_need_two_rows(loss):
    with raises(ValueError, "z", "global batch of at least 2", "(1, 3)"):
        loss(Z[:1])
    with raises(ValueError, "z", "global batch of at least 2", "(1, 3) on each of 1 shards along 'i'"):
        jax.vmap(partial(loss, axis_name="i"), axis_name="i")(Z[None, :1])
    jax.vmap(partial(loss, axis_name="i"), axis_name="i", axis_size=2, in_axes=None)(Z[:1])


def test_invariance_takes_a_single_row():
    assert invariance_term(Z[:1], Z[:1] + 2) == 4


def test_errors_come_when_tracing():
    with raises(ValueError, "z_b", "shape of z_a"):
        jax.jit(vicreg_loss).eval_shape(Z, Z.T)
