import jax
import jax.numpy as jnp
import numpy as np
import optax

from vicreg_jax.losses import nt_xent_loss


def test_value_and_gradients_are_those_of_optax():
    views = np.random.default_rng(0).normal(size=(2, 7, 5))

    def of_optax(z_a, z_b):
        return optax.losses.ntxent(jnp.concatenate([z_a, z_b]), jnp.tile(jnp.arange(7), 2), temperature=0.2)

    def ours(z_a, z_b):
        return nt_xent_loss(z_a, z_b, temperature=0.2)

    with jax.enable_x64(True):
        actual, expected = (jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(*views) for f in (ours, of_optax))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-12)


def test_half_of_what_the_official_code_sums():
    """There, the cross-entropies of the two directions, each over `[the other view | the own view less oneself]`."""
    z_a, z_b = np.random.default_rng(1).normal(size=(2, 7, 5))

    def cross_entropy(anchors, others):
        own = anchors @ anchors.T / 0.1 - 1e9 * np.eye(7)
        exponentials = np.exp(np.concatenate([anchors @ others.T / 0.1, own], axis=1))
        return np.mean(-np.log(np.diag(exponentials) / exponentials.sum(axis=1)))

    u_a, u_b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z_a, z_b))
    official = cross_entropy(u_a, u_b) + cross_entropy(u_b, u_a)
    np.testing.assert_allclose(2 * jax.jit(nt_xent_loss)(z_a, z_b), official, rtol=1e-5)  # 0.1 is the default
