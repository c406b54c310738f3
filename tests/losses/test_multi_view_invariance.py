import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.losses import invariance_term, multi_view_invariance

Z = np.random.default_rng(0).normal(size=(4, 6, 3))


@pytest.mark.parametrize("global_views", [2, *(pytest.param(g, marks=pytest.mark.slow) for g in (1, 4))])
def test_value(global_views):
    expected = np.mean((Z - Z[:global_views].mean(axis=0)) ** 2)
    with jax.enable_x64(True):
        np.testing.assert_allclose(multi_view_invariance(Z, global_views=global_views), expected, rtol=1e-14)


@pytest.mark.slow
def test_gradient():
    direction = np.random.default_rng(1).normal(size=Z.shape)
    with jax.enable_x64(True):
        gradient = jax.grad(lambda z: multi_view_invariance(z, global_views=2))(jnp.asarray(Z))
    ahead, behind = (np.mean((z - z[:2].mean(axis=0)) ** 2) for z in (Z + 1e-4 * direction, Z - 1e-4 * direction))
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), (ahead - behind) / 2e-4, rtol=1e-9)


@pytest.mark.slow
def test_two_global_views_are_a_quarter_of_the_invariance_term():
    z = jnp.asarray(Z[:2], jnp.float32)
    np.testing.assert_allclose(4 * multi_view_invariance(z, global_views=2), invariance_term(*z), rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match=r"z must have shape \[views, batch, dim\] with at least 2 views; got shape"):
        multi_view_invariance(jnp.ones((1, 4, 3)), global_views=1)
    for wrong in (0, 5, 1.0, None):
        with pytest.raises(ValueError, match=f"global_views must be an integer from 1 to the 4 views; got {wrong}"):
            multi_view_invariance(Z, global_views=wrong)
