import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.losses import vicreg_loss
from vicreg_jax.methods import VICReg
from vicreg_jax.models import Expander, create_backbone


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Compiling is most of what these tests do."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def make():
    method = VICReg(
        create_backbone("resnet_tiny", stem="small"),
        Expander((16, 12)),
        covariance_weight=2.0,
        unbiased_covariance=True,
    )
    views = jax.random.normal(jax.random.key(1), (2, 8, 8, 8, 1))
    params, batch_stats = jax.jit(method.init)(jax.random.key(0), views[0])
    return method, views, params, batch_stats


def test_loss_is_that_of_two_forward_passes():
    """BatchNorm's statistics are per view, and its running ones have seen both views, one after the other."""
    method, (view_a, view_b), params, stats = make()
    loss, outputs = jax.jit(method.loss)(params, stats, (view_a, view_b))

    def forward(module, part, inputs, stats):
        variables = {"params": params[part], "batch_stats": stats[part]}
        return module.apply(variables, inputs, train=True, mutable=["batch_stats"])

    embeddings = []
    for view in (view_a, view_b):
        features, backbone_stats = forward(method.backbone, "backbone", view, stats)
        z, head_stats = forward(method.head, "head", features, stats)
        stats = {"backbone": backbone_stats["batch_stats"], "head": head_stats["batch_stats"]}
        embeddings.append(z)
    expected = vicreg_loss(*embeddings, covariance_weight=2.0, unbiased_covariance=True)
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(outputs.terms["covariance"], expected.covariance, rtol=1e-4)
    np.testing.assert_allclose(outputs.embeddings, embeddings[0], rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), outputs.batch_stats, stats)


def test_gradient_reaches_every_parameter_of_both_parts():
    method, views, params, stats = make()
    # The last BatchNorm of each block starts at scale zero, which stops the gradient of what is before it.
    params = jax.tree.map(lambda p: p + 0.1, params)
    gradient = jax.jit(jax.grad(lambda p: method.loss(p, stats, tuple(views))[0]))(params)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


def test_embed_uses_the_running_statistics():
    method, views, params, stats = make()
    embed = jax.jit(method.embed)
    alone = embed(params, stats, views[0][:1])
    np.testing.assert_allclose(alone, embed(params, stats, views[0])[:1], rtol=1e-4, atol=1e-5)
