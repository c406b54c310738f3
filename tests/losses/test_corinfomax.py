from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.losses import CorInfoMaxState, corinfomax_loss, corinfomax_state

SLOW = pytest.mark.slow


def reference(views, means, covariances, decay=0.01):
    """As in the official code, in float64."""
    total, new_means, new_covariances = 250 * np.mean((views[0] - views[1]) ** 2), [], []
    for z, mean, covariance in zip(views, means, covariances, strict=True):
        mean = decay * mean + (1 - decay) * z.mean(axis=0)
        covariance = decay * covariance + (1 - decay) * (z - mean).T @ (z - mean) / len(z)
        total -= np.linalg.slogdet(covariance + 1e-8 * np.eye(z.shape[1]))[1] / z.shape[1]
        new_means.append(mean)
        new_covariances.append(covariance)
    return total, new_means, new_covariances


@SLOW
def test_three_steps():
    """Value, gradient and statistics, N < D and N > D."""
    rng = np.random.default_rng(0)
    for rows in (4, 16):
        means, covariances = [np.zeros(6)] * 2, [np.eye(6)] * 2
        with jax.enable_x64(True):
            state = corinfomax_state(6, dtype=jnp.float64)
            step = jax.jit(jax.value_and_grad(lambda z, state: _with_aux(*z, state), has_aux=True))
            for _ in range(3):
                z, direction = rng.normal(size=(2, 2, rows, 6)) + 0.3
                (value, new_state), gradient = step(jnp.asarray(z), state)
                before = means, covariances
                expected, means, covariances = reference(z, *before)
                np.testing.assert_allclose(value, expected, rtol=1e-12)
                for actual, wanted in zip(new_state, (*means, *covariances), strict=True):
                    np.testing.assert_allclose(actual, wanted, rtol=1e-12, atol=1e-15)
                ahead, behind = (reference(z + s * direction, *before)[0] for s in (1e-6, -1e-6))
                np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), (ahead - behind) / 2e-6, rtol=1e-6)
                state = new_state


def _with_aux(z_a, z_b, state):
    terms, state = corinfomax_loss(z_a, z_b, state)
    return terms.loss, state


@SLOW
def test_first_step():
    z = np.random.default_rng(0).normal(size=(2, 5, 3))
    expected, means, covariances = reference(z, [np.zeros(3)] * 2, [np.eye(3)] * 2)
    with jax.enable_x64(True):
        terms, state = jax.jit(corinfomax_loss)(*z, corinfomax_state(3, dtype=jnp.float64))
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-12)
    np.testing.assert_allclose(250 * float(terms.invariance) - float(terms.log_determinant), expected, rtol=1e-12)
    for actual, wanted in zip(state, (*means, *covariances), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-12, atol=1e-15)


@SLOW
@pytest.mark.parametrize("rank", [0, 1, 3, 40])
@pytest.mark.parametrize("dim", [8, 128])
def test_collapsed_embeddings_stay_finite_in_float32(rank, dim):
    """The smallest eigenvalues fall to a hundredth at every step, far below the rounding errors of the others."""
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(size=(64, rank)) @ rng.normal(size=(rank, dim)) + 1, jnp.float32)
    step = jax.jit(jax.value_and_grad(lambda z, state: _with_aux(z, z, state), has_aux=True))
    state = corinfomax_state(dim)
    for _ in range(12):
        (value, state), gradient = step(z, state)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


@SLOW
def test_without_rows_the_state_stays():
    state = CorInfoMaxState(*(x + 0.5 for x in corinfomax_state(3)))
    _, new = jax.jit(corinfomax_loss)(jnp.ones((4, 3)), jnp.ones((4, 3)), state, where=jnp.zeros(4, bool))
    for actual, expected in zip(new, state, strict=True):
        np.testing.assert_array_equal(actual, expected)


@SLOW
def test_state_keeps_its_dtype_and_has_no_gradient():
    z = jnp.ones((4, 3), jnp.bfloat16)
    terms, state = jax.eval_shape(corinfomax_loss, z, z, corinfomax_state(3))
    assert {x.dtype for x in jax.tree.leaves((terms, state))} == {np.dtype(np.float32)}
    gradient = jax.grad(lambda state: corinfomax_loss(z, z, state)[0].loss)(corinfomax_state(3))
    assert not any(np.any(x) for x in gradient)


def test_errors():
    z, state = jnp.ones((4, 3)), corinfomax_state(3)
    with pytest.raises(TypeError, match="state must be a CorInfoMaxState, as from corinfomax_state; got tuple"):
        corinfomax_loss(z, z, tuple(state))
    with pytest.raises(ValueError, match="state must have the embeddings' dimension, 3; got shapes"):
        corinfomax_loss(z, z, corinfomax_state(4))
    with pytest.raises(TypeError, match="state must have floating-point dtypes; got int32"):
        corinfomax_loss(z, z, jax.tree.map(lambda x: x.astype(jnp.int32), state))
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"decay must be in \[0, 1\); got {decay}"):
            corinfomax_loss(z, z, state, decay=decay)
    with pytest.raises(ValueError, match="dim must be at least 1; got 0"):
        corinfomax_state(0)


@SLOW
def test_named_tuples_refuse_arithmetic():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    terms, _ = jax.jit(partial(corinfomax_loss, state=corinfomax_state(3)))(z, z)
    with pytest.raises(TypeError, match=r"CorInfoMaxLoss must not be added or multiplied.*use its \.loss"):
        2 * terms
