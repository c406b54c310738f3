import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.losses.slices import random_directions

Z = jnp.zeros((4, 6))


@pytest.mark.slow
def test_directions_are_uniform_on_the_sphere():
    directions = random_directions(jax.random.key(0), 4096, Z)
    np.testing.assert_allclose(jnp.linalg.norm(directions, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(directions.T @ directions / 4096, jnp.eye(6) / 6, atol=0.01)
    assert not np.array_equal(directions, random_directions(jax.random.key(1), 4096, Z))


@pytest.mark.slow
def test_float64_has_the_directions_of_float32():
    expected = random_directions(jax.random.key(0), 5, Z)
    with jax.enable_x64(True):
        actual = random_directions(jax.random.key(0), 5, jnp.zeros((4, 6), jnp.float64))
    assert actual.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_both_kinds_of_keys():
    typed = jax.random.key(3)
    expected = random_directions(typed, 5, Z)
    np.testing.assert_array_equal(random_directions(jax.random.key_data(typed), 5, Z), expected)


@pytest.mark.parametrize(
    ("key", "got"),
    [
        (0, "got 0"),
        (None, "got None"),
        (jax.random.split(jax.random.key(0), 2), r"got dtype key<fry> and shape \(2,\)"),
        (np.zeros(2, np.int32), r"got dtype int32 and shape \(2,\)"),
    ],
)
def test_key_errors(key, got):
    with pytest.raises(TypeError, match=f"key must be one PRNG key, as from jax.random.key; {got}"):
        random_directions(key, 5, Z)
