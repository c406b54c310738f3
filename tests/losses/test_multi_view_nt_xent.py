from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.losses import multi_view_nt_xent_loss, nt_xent_loss


def reference(z, temperature):
    """The mean over pairs of views, from all logits, in float64; other views of the same image are no negatives."""
    z = np.asarray(z, np.float64)
    u = z / np.linalg.norm(z, axis=2, keepdims=True)
    views, batch, _ = z.shape
    exponentials = np.exp(np.einsum("vnd,wmd->vnwm", u, u) / temperature)
    losses = []
    for v in range(views):
        for n in range(batch):
            others = np.delete(exponentials[v, n], n, axis=1).sum()
            losses += [-np.log(p / (p + others)) for w, p in enumerate(exponentials[v, n, :, n]) if w != v]
    return np.mean(losses)


@pytest.mark.parametrize("shape", [(3, 5, 4), pytest.param((2, 6, 3), marks=pytest.mark.slow)])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_value_and_gradient(shape, temperature):
    z = np.random.default_rng(0).normal(size=shape)
    direction = np.random.default_rng(1).normal(size=shape)
    with jax.enable_x64(True):
        loss = partial(multi_view_nt_xent_loss, temperature=temperature, block_size=2)
        value, gradient = jax.jit(jax.value_and_grad(loss))(z)
    np.testing.assert_allclose(value, reference(z, temperature), rtol=1e-12)
    ahead, behind = (reference(z + step * direction, temperature) for step in (1e-6, -1e-6))
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), (ahead - behind) / 2e-6, rtol=1e-6)


def test_two_views_are_nt_xent():
    z = jax.random.normal(jax.random.key(0), (2, 9, 6))
    actual = jax.jit(jax.value_and_grad(multi_view_nt_xent_loss))(z)
    expected = jax.jit(jax.value_and_grad(lambda z: nt_xent_loss(*z)))(z)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


def test_errors():
    for shape in ((4, 3), (1, 4, 3)):
        message = rf"z must have shape \[views, batch, dim\] with at least 2 views; got shape \({shape[0]}, "
        with pytest.raises(ValueError, match=message):
            multi_view_nt_xent_loss(jnp.ones(shape))
    with pytest.raises(TypeError, match="z must have a floating-point dtype; got dtype int32"):
        multi_view_nt_xent_loss(jnp.ones((2, 4, 3), jnp.int32))
