"""A folded BatchNorm against its textbook form in float64, alone and in a ResNet."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vicreg_jax.methods import VICReg
from vicreg_jax.models import BasicBlock, Bottleneck, Head, ResNet, ViT, fastest_on
from vicreg_jax.models.normalized_products import Parameters, normalized_products, subsample

EPSILON = 1e-5
ROWS = (0, 1, 2)


class Given(NamedTuple):
    """The arguments, in float64: inputs, their parameters, a residual or None, and the result's cotangent."""

    inputs: list
    parameters: list
    residual: Any
    g: Any


def textbook(given):
    """Result, mean and variance of each product, and the gradients of sum(g * result), in NumPy."""
    total, statistics = 0 if given.residual is None else given.residual, []
    for x, (kernel, scale, bias) in zip(given.inputs, given.parameters, strict=True):
        y = x @ kernel
        statistics.append((y.mean(ROWS), y.var(ROWS)))
        total = total + (y - y.mean(ROWS)) / np.sqrt(y.var(ROWS) + EPSILON) * scale + bias
    g = given.g * (total > 0)
    of_inputs, of_parameters = [], []
    for x, (kernel, scale, _), (mean, var) in zip(given.inputs, given.parameters, statistics, strict=True):
        deviation = np.sqrt(var + EPSILON)
        normalized = (x @ kernel - mean) / deviation
        of_normalized = g * scale
        centered = of_normalized - of_normalized.mean(ROWS) - normalized * (of_normalized * normalized).mean(ROWS)
        of_product = centered / deviation
        of_inputs.append(of_product @ kernel.T)
        of_parameters.append((np.tensordot(x, of_product, (ROWS, ROWS)), (g * normalized).sum(ROWS), g.sum(ROWS)))
    gradients = of_inputs, of_parameters, None if given.residual is None else g
    return (np.maximum(total, 0), statistics), gradients


def draw(shape, channels, *, inputs, seed=0):
    """Inputs with this number of channels each; a residual if there is one input."""
    random = np.random.default_rng(seed)
    images = [np.maximum(random.normal(0.3, 1.0, (*shape, each)), 0) for each in inputs]
    parameters = [
        Parameters(
            random.normal(0, each**-0.5, (each, channels)),
            random.uniform(-1, 1.5, channels),
            random.normal(0, 0.3, channels),
        )
        for each in inputs
    ]
    residual, g = random.normal(size=(2, *shape, channels))
    return Given(images, parameters, residual if len(inputs) == 1 else None, g)


@jax.jit
def value_and_gradients(given):
    (y, statistics), pull_back = jax.vjp(
        lambda *arguments: normalized_products(*arguments, EPSILON), given.inputs, given.parameters, given.residual
    )
    return (y, statistics), pull_back((given.g, jax.tree.map(jnp.ones_like, statistics)))


def as_type(dtype, given):
    """The arguments, with images of this type."""
    small = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), given)
    images = jax.tree.map(lambda array: jnp.asarray(array, dtype), given)
    return images._replace(parameters=small.parameters)


@pytest.mark.parametrize(
    ("shape", "inputs", "channels"),
    [((4, 3, 5), (6,), 24), ((2, 1, 1), (1,), 3), ((4, 3, 5), (6, 9), 24), ((3, 2, 2), (8, 4), 4)],
)
def test_value_and_gradients(shape, inputs, channels):
    given = draw(shape, channels, inputs=inputs)
    expected, expected_gradients = textbook(given)
    found, gradients = value_and_gradients(as_type(jnp.float32, given))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found, expected)
    gradients = jax.tree.map(np.asarray, (gradients[0], [tuple(each) for each in gradients[1]], gradients[2]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max()),
        gradients,
        expected_gradients,
    )


@pytest.mark.parametrize("inputs", [(64,), (64, 32)])
def test_in_16_bits_its_errors_are_those_of_the_textbook_form(inputs):
    """Rounding the inputs is no error of either. Most of both is at results near zero, which ReLU cuts or not."""
    exact_given = draw((32, 8, 8), 256, inputs=inputs)
    given = as_type(jnp.bfloat16, exact_given)
    rounded = jax.tree.map(lambda array: np.asarray(array, np.float64), given)

    def in_16_bits(inputs, parameters, residual):
        total = jnp.zeros((), jnp.bfloat16) if residual is None else residual
        for x, (kernel, scale, bias) in zip(inputs, parameters, strict=True):
            y = jnp.matmul(x, kernel.astype(x.dtype)).astype(jnp.float32)
            mean, var = jnp.mean(y, ROWS, keepdims=True), jnp.var(y, ROWS, keepdims=True)
            total += ((y - mean) * jax.lax.rsqrt(var + EPSILON) * scale + bias).astype(x.dtype)
        return jax.nn.relu(total)

    (y, _), gradients = value_and_gradients(given)
    y_textbook, pull_back = jax.vjp(in_16_bits, *given[:3])
    (expected, _), expected_gradients = textbook(rounded)
    assert y.dtype == gradients[0][0].dtype == jnp.bfloat16
    trees = (y, *gradients), (y_textbook, *pull_back(given.g)), (expected, *expected_gradients)
    for a, b, exact in zip(*map(jax.tree.leaves, trees), strict=True):
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
