"""A folded BatchNorm against its textbook form in float64, alone and in a ResNet."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vicreg_jax.methods import VICReg
from vicreg_jax.models import BasicBlock, Bottleneck, Head, ResNet, ViT, fastest_on
from vicreg_jax.models.normalized_product import normalized_product, subsample

EPSILON = 1e-5
ROWS = (0, 1, 2)


def textbook(x, kernel, scale, bias, residual, g):
    """Result, mean and variance, and the gradients of sum(g * result), in NumPy."""
    y = x @ kernel
    mean, var = y.mean(ROWS), y.var(ROWS)
    deviation = np.sqrt(var + EPSILON)
    normalized = (y - mean) / deviation
    y = normalized * scale + bias
    if residual is not None:
        y = np.maximum(y + residual, 0)
        g = g * (y > 0)
    of_normalized = g * scale
    centered = of_normalized - of_normalized.mean(ROWS) - normalized * (of_normalized * normalized).mean(ROWS)
    of_product = centered / deviation
    gradients = (
        of_product @ kernel.T,
        np.tensordot(x, of_product, (ROWS, ROWS)),
        (g * normalized).sum(ROWS),
        g.sum(ROWS),
    )
    return (y, mean, var), (*gradients, g)


def arguments(shape, channels, seed=0):
    random = np.random.default_rng(seed)
    x = np.maximum(random.normal(0.3, 1.0, shape), 0)
    kernel = random.normal(0, shape[-1] ** -0.5, (shape[-1], channels))
    scale, bias = random.uniform(-1, 1.5, channels), random.normal(0, 0.3, channels)
    residual, g = random.normal(size=(2, *shape[:-1], channels))
    return x, kernel, scale, bias, residual, g


@partial(jax.jit, static_argnames="with_residual")
def value_and_gradients(x, kernel, scale, bias, residual, g, *, with_residual):
    def function(*args):
        return normalized_product(*args, EPSILON)

    (y, mean, var), pull_back = jax.vjp(function, x, kernel, scale, bias, residual if with_residual else None)
    return (y, mean, var), pull_back((g, jnp.ones_like(mean), jnp.ones_like(var)))


@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize(("shape", "channels"), [((4, 3, 5, 6), 24), ((2, 1, 1, 1), 3), ((3, 2, 2, 8), 4)])
def test_value_and_gradients(shape, channels, with_residual):
    given = arguments(shape, channels)
    (*inputs, residual, g) = given
    expected, expected_gradients = textbook(*inputs, residual if with_residual else None, g)
    found, gradients = value_and_gradients(
        *(jnp.asarray(array, jnp.float32) for array in given), with_residual=with_residual
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    assert (gradients[4] is not None) == with_residual
    for a, b in zip(gradients[: 4 + with_residual], expected_gradients, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


def test_in_16_bits_its_errors_are_those_of_the_textbook_form():
    """Rounding the inputs is no error of either. Most of both is at results near zero, which ReLU cuts or not."""
    x, kernel, scale, bias, residual, g = arguments((32, 8, 8, 64), 256)
    rounded = [np.asarray(jnp.asarray(array, jnp.bfloat16), np.float64) for array in (x, residual, g)]
    given = tuple(jnp.asarray(array, jnp.bfloat16) for array in (x, residual, g))
    small = tuple(jnp.asarray(array, jnp.float32) for array in (kernel, scale, bias))

    def in_16_bits(x, kernel, scale, bias, residual):
        y = jnp.matmul(x, kernel.astype(x.dtype)).astype(jnp.float32)
        mean, var = jnp.mean(y, ROWS, keepdims=True), jnp.var(y, ROWS, keepdims=True)
        y = (y - mean) * jax.lax.rsqrt(var + EPSILON) * scale + bias
        return jax.nn.relu(y.astype(x.dtype) + residual)

    (y, _, _), gradients = value_and_gradients(given[0], *small, *given[1:], with_residual=True)
    y_textbook, pull_back = jax.vjp(in_16_bits, given[0], *small, given[1])
    (expected, _, _), expected_gradients = textbook(rounded[0], kernel, scale, bias, *rounded[1:])
    found = (y, *gradients)
    usual = (y_textbook, *pull_back(given[2]))
    assert found[0].dtype == found[1].dtype == jnp.bfloat16
    for a, b, exact in zip(found, usual, (expected, *expected_gradients), strict=True):
        error, usual_error = (np.linalg.norm(np.asarray(each, np.float64) - exact) for each in (a, b))
        assert error < 1.3 * usual_error


@pytest.mark.parametrize(("stride", "sides"), [(1, (3, 2)), (2, (4, 6)), (2, (7, 4)), (3, (5, 9))])
def test_subsampling_and_its_gradient_are_those_of_a_slice(stride, sides):
    random = np.random.default_rng(0)
    images = random.normal(size=(2, *sides, 3)).astype(np.float32)
    expected, expected_pull_back = jax.vjp(lambda x: x[:, ::stride, ::stride], images)
    found, pull_back = jax.vjp(partial(subsample, stride=stride), images)
    np.testing.assert_array_equal(found, expected)
    g = random.normal(size=found.shape).astype(np.float32)
    np.testing.assert_array_equal(*pull_back(g), *expected_pull_back(g))


def random_step(model, images):
    """Random variables, and a jitted function to features, running statistics and the gradient of a sum."""
    random = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: random.uniform(-1.0, 1.0, leaf.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0), images),
    )

    def loss(params, images):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        features, updated = model.apply(given, images, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(features)), (features, updated)

    return variables["params"], jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize(
    ("devices", "stem", "remat"), [pytest.param(1, "small", True, marks=pytest.mark.slow), (8, "imagenet", False)]
)
def test_a_folded_resnet_is_the_same_network(devices, stem, remat):
    images = np.random.default_rng(1).normal(size=(16, 14, 14, 3)).astype(np.float32)
    model = ResNet(Bottleneck, (1, 2), filters=4, stem=stem)
    params, step = random_step(model, images)
    expected = step(params, images)
    folded_params, folded_step = random_step(model.clone(folded=True, remat=remat), images)
    jax.tree.map(np.testing.assert_array_equal, folded_params, params)
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    found = folded_step(params, jax.device_put(images, NamedSharding(mesh, PartitionSpec("data"))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), found, expected)


def test_evaluation_of_a_folded_resnet_has_the_same_bits():
    images = jnp.ones((2, 6, 6, 3))
    model = ResNet(Bottleneck, (1,), filters=4, stem="small")
    variables = model.init(jax.random.key(0), images)
    folded = model.clone(folded=True)
    np.testing.assert_array_equal(folded.apply(variables, images), model.apply(variables, images))


@pytest.mark.parametrize("microbatches", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_views_go_through_a_folded_backbone_in_turn(microbatches):
    """The loss, the running statistics and the gradient are those of both views as one batch."""
    random = np.random.default_rng(0)
    views = tuple(random.normal(mean, 1.0, (8, 4, 4, 1)).astype(np.float32) for mean in (0.0, 2.0))
    backbone = ResNet(Bottleneck, (1,), filters=4, stem="small")
    results = []
    for part in (backbone, backbone.clone(folded=True)):
        method = VICReg(part, Head((6, 3)), microbatches=microbatches)
        shapes = jax.eval_shape(method.init, jax.random.key(0), views)
        variables = jax.tree.map(lambda leaf: np.random.default_rng(1).uniform(0.5, 1, leaf.shape), shapes)
        variables = jax.tree.map(np.float32, variables)
        (loss, outputs), gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True))(
            *variables, views, jax.random.key(1)
        )
        results.append((loss, outputs.batch_stats, outputs.embeddings, gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), *results)


def test_where_a_backbone_is_folded():
    bottleneck = ResNet(Bottleneck, (1,), dtype=jnp.bfloat16)
    assert fastest_on("gpu", bottleneck).folded
    assert fastest_on("tpu", bottleneck).folded
    assert not fastest_on("cpu", bottleneck).folded
    assert not fastest_on("gpu", bottleneck.clone(dtype=jnp.float32)).folded
    assert not fastest_on("gpu", ResNet(BasicBlock, (1,), dtype=jnp.bfloat16)).folded
    vit = ViT(4, 64, 1, 1, 8)
    assert fastest_on("gpu", vit) is vit
