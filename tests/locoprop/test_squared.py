"""The closed form of the squared local loss against least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.locoprop import squared_solution

solution = jax.jit(squared_solution)


def problem(batch, features, outputs=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, features)), rng.normal(size=(features, outputs)), rng.normal(size=(batch, outputs))


@pytest.mark.parametrize(("batch", "features"), [(1, 6), (4, 9), (7, 7), (20, 5), (3, 1)])
@pytest.mark.parametrize("step_size", [1e-3, 1.0, 1e4])
def test_it_is_the_minimizer(batch, features, step_size):
    """Against the two squares stacked into one least-squares problem."""
    x, w, g = problem(batch, features)
    stacked = np.concatenate([x, np.eye(features) / np.sqrt(step_size)])
    wanted = np.concatenate([x @ w - 0.7 * g, w / np.sqrt(step_size)])
    expected = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
    with jax.enable_x64(True):
        actual = solution(x, w, g, activation_rate=0.7, step_size=step_size)
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-11)


def test_a_small_step_size_is_a_gradient_step():
    x, w, g = problem(8, 5)
    with jax.enable_x64(True):
        actual = np.asarray(solution(x, w, g, activation_rate=2.0, step_size=1e-6))
    np.testing.assert_allclose((actual - w) / 1e-6, -2.0 * x.T @ g, rtol=1e-4)


@pytest.mark.parametrize(("batch", "features"), [(4, 9), (9, 4)])
def test_the_smaller_system_is_solved(batch, features):
    traced = str(
        jax.make_jaxpr(lambda *arrays: squared_solution(*arrays, activation_rate=1.0, step_size=1.0))(
            *[array.astype(np.float32) for array in problem(batch, features)]
        )
    )
    assert "[4,4] = cholesky" in traced
    assert "[9,9]" not in traced


def test_the_kernel_keeps_its_dtype():
    x, w, g = (jnp.asarray(array, jnp.bfloat16) for array in problem(8, 5))
    assert solution(x, w, g, activation_rate=1.0, step_size=1.0).dtype == jnp.bfloat16


def test_bad_arguments_are_named():
    x, w, g = problem(8, 5)
    rates = {"activation_rate": 1.0, "step_size": 1.0}
    with pytest.raises(TypeError, match="inputs"):
        squared_solution(x.astype(int), w, g, **rates)
    with pytest.raises(ValueError, match="inputs must have two dimensions"):
        squared_solution(x[0], w, g, **rates)
    with pytest.raises(ValueError, match="kernel must have 5 rows"):
        squared_solution(x, w[1:], g, **rates)
    with pytest.raises(ValueError, match="gradient must have shape"):
        squared_solution(x, w, g[1:], **rates)
    with pytest.raises(ValueError, match="step_size must be positive; got 0"):
        squared_solution(x, w, g, activation_rate=1.0, step_size=0)
