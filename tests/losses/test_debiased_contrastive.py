import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.losses import debiased_contrastive_loss, nt_xent_loss


@jax.jit
def debiased(z_a, z_b, temperature, positive_prior):
    return debiased_contrastive_loss(z_a, z_b, temperature=temperature, positive_prior=positive_prior)


def test_without_a_prior_it_is_nt_xent():
    views = np.random.default_rng(0).normal(size=(2, 6, 5))

    @jax.jit
    def nt_xent(z_a, z_b, temperature):
        return nt_xent_loss(z_a, z_b, temperature=temperature)

    with jax.enable_x64(True):
        for temperature in (0.01, 0.5):
            actual = jax.value_and_grad(debiased, argnums=(0, 1))(*views, temperature, 0.0)
            expected = jax.value_and_grad(nt_xent, argnums=(0, 1))(*views, temperature)
            for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("positive_prior", "is_least"), [(0.0, False), (0.1, False), (0.13, True), (0.5, True), (0.999, True)]
)
def test_the_least_that_is_left_of_the_negatives(positive_prior, is_least):
    """Views alike and images at right angles: p = e^2 and n = 6, of which the correction must leave 6 e^-2."""
    z = jnp.eye(4)
    left, least = 6 * (1 - positive_prior * math.exp(2)) / (1 - positive_prior), 6 * math.exp(-2)
    assert (left < least) == is_least
    expected = math.log1p(max(left, least) / math.exp(2))
    np.testing.assert_allclose(debiased(z, z, 0.5, positive_prior), expected, rtol=1e-6)


def test_defaults():
    z_a, z_b = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(debiased_contrastive_loss)(z_a, z_b), debiased(z_a, z_b, 0.5, 0.1), rtol=1e-6)


@pytest.mark.parametrize("positive_prior", [-0.1, 1, 1.5, math.nan, np.float32(1)])
def test_a_prior_that_is_no_probability(positive_prior):
    z = jnp.ones((4, 3))
    message = re.escape(f"positive_prior must be from 0 to below 1; got {positive_prior}")
    with pytest.raises(ValueError, match=message):
        debiased_contrastive_loss(z, z, positive_prior=positive_prior)
