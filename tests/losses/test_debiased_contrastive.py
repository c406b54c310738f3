"""Only the debiasing; test_nt_xent.py tests the rest of this loss."""

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


def test_textbook_form():
    """Value and gradients equal those of the form in the docstring, from the 2N x 2N matrix."""

    def textbook(z_a, z_b, temperature, prior):
        u = jnp.concatenate([z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (z_a, z_b)])
        similarities, count = jnp.exp(u @ u.T / temperature), 2 * len(z_a) - 2
        p = jnp.tile(jnp.diag(similarities[: len(z_a), len(z_a) :]), 2)
        n = jnp.sum(similarities, axis=1, where=~jnp.tile(jnp.eye(len(z_a), dtype=bool), (2, 2)))
        g = jnp.maximum((n - prior * count * p) / (1 - prior), count * jnp.exp(-1 / temperature))
        return jnp.mean(-jnp.log(p / (p + g)))

    arguments = (*np.random.default_rng(2).normal(size=(2, 6, 5)), 0.5, 0.1)
    with jax.enable_x64(True):
        actual, expected = (jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(*arguments) for f in (debiased, textbook))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("positive_prior", "is_minimum"), [(0.0, False), (0.1, False), (0.13, True), (0.5, True), (0.999, True)]
)
def test_minimum_of_the_negatives(positive_prior, is_minimum):
    """Equal views of orthogonal images: p = e^2 and n = 6; the corrected sum is at least 6 e^-2."""
    z = jnp.eye(4)
    corrected, minimum = 6 * (1 - positive_prior * math.exp(2)) / (1 - positive_prior), 6 * math.exp(-2)
    assert (corrected < minimum) == is_minimum
    expected = math.log1p(max(corrected, minimum) / math.exp(2))
    np.testing.assert_allclose(debiased(z, z, 0.5, positive_prior), expected, rtol=1e-6)


def test_defaults():
    z_a, z_b = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(debiased_contrastive_loss)(z_a, z_b), debiased(z_a, z_b, 0.5, 0.1), rtol=1e-6)


@pytest.mark.parametrize("positive_prior", [-0.1, 1, 1.5, math.nan, np.float32(1)])
def test_bad_prior(positive_prior):
    z = jnp.ones((4, 3))
    message = re.escape(f"positive_prior must be in [0, 1); got {positive_prior}")
    with pytest.raises(ValueError, match=message):
        debiased_contrastive_loss(z, z, positive_prior=positive_prior)
