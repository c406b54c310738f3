"""Gradients of kernels in 16-bit computation: float32, and the same on any number of devices up to reordering."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from vicreg_jax.losses import vicreg_loss
from vicreg_jax.models import Head, create_backbone, mixed_precision
from vicreg_jax.training.mesh import AXES, batch_sharding, replicated

SHAPES = [
    (2, 3, 9),
    *(
        pytest.param(*shape, marks=pytest.mark.slow)
        for shape in [(1, 3, 8), (2, 7, 16), (1, 1, 5), (2, 1, 6), (2, 1, 5)]
    ),
]


def rounded(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), tree)


def check_against_float32(make, x):
    """Products of 16-bit numbers are exact in float32: so is the kernel's gradient, up to the order of its sum."""
    variables = make(dtype=jnp.float32).init(jax.random.key(1), x)
    weights = rounded(jax.random.normal(jax.random.key(2), make(dtype=jnp.float32).apply(variables, x).shape))

    def loss(layer, variables, x):
        return jnp.sum(layer.apply(variables, x).astype(jnp.float32) * weights)

    kind = mixed_precision.conv if x.ndim == 4 else mixed_precision.dense
    ours = jax.grad(loss, (1, 2))(make(**kind(jnp.bfloat16)), variables, x.astype(jnp.bfloat16))
    exact = jax.grad(loss, (1, 2))(make(dtype=jnp.float32), rounded(variables), rounded(x))
    plain = jax.grad(loss, (1, 2))(make(dtype=jnp.bfloat16), variables, x.astype(jnp.bfloat16))
    for name, gradient in ours[0]["params"].items():
        assert gradient.dtype == jnp.float32
        np.testing.assert_allclose(gradient, exact[0]["params"][name], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours[1], plain[1])


@pytest.mark.parametrize(("stride", "kernel", "side"), SHAPES)
def test_gradient_of_a_convolution(stride, kernel, side):
    def make(**options):
        return nn.Conv(6, (kernel, kernel), (stride, stride), padding=kernel // 2, use_bias=False, **options)

    check_against_float32(make, jax.random.normal(jax.random.key(0), (4, side, side, 5)))


@pytest.mark.parametrize("use_bias", [True, False])
def test_gradient_of_a_dense_layer(use_bias):
    def make(**options):
        return nn.Dense(6, use_bias=use_bias, **options)

    check_against_float32(make, jax.random.normal(jax.random.key(0), (16, 5)))


def test_float32_is_left_alone():
    assert mixed_precision.conv(jnp.float32) == mixed_precision.dense(jnp.float32) == {"dtype": jnp.float32}


@pytest.mark.parametrize("shape", [(64, 32), (64, 6, 6, 4)])
def test_kernel_has_one_gradient_on_any_number_of_devices(shape):
    x = jax.random.normal(jax.random.key(0), shape, jnp.bfloat16)
    convolutional = x.ndim == 4

    def gradient(devices, options):
        layer = nn.Conv(8, (3, 3), padding=1, **options) if convolutional else nn.Dense(8, **options)
        mesh = jax.make_mesh((devices, 1), AXES, (AxisType.Auto,) * 2, devices=jax.devices()[:devices])
        variables = jax.device_put(layer.init(jax.random.key(1), x), replicated(mesh))
        loss = jax.jit(
            jax.grad(lambda variables, x: jnp.sum(jnp.square(layer.apply(variables, x).astype(jnp.float32)))),
            out_shardings=replicated(mesh),
        )
        return np.asarray(loss(variables, jax.device_put(x, batch_sharding(mesh)))["params"]["kernel"])

    ours = (mixed_precision.conv if convolutional else mixed_precision.dense)(jnp.bfloat16)
    one, eight = gradient(1, ours), gradient(8, ours)
    scale = np.abs(one).max()
    assert np.abs(one - eight).max() < 1e-6 * scale
    # Flax's own 16-bit gradient is rounded, which is more than a thousand times as much.
    assert np.abs(gradient(8, {"dtype": jnp.bfloat16}) - one).max() > 1e-3 * scale


@pytest.mark.slow
def test_eight_devices_agree_as_closely_as_one_with_itself_reordered():
    backbone = create_backbone("resnet_tiny", width=0.5, stem="small", dtype=jnp.bfloat16)
    head = Head((64, 64), dtype=jnp.bfloat16)
    views = jax.random.normal(jax.random.key(0), (2, 64, 8, 8, 3))
    features, backbone_variables = jax.jit(backbone.init_with_output)(jax.random.key(1), views[0])
    head_variables = jax.jit(head.init)(jax.random.key(2), features)
    params = {"backbone": backbone_variables["params"], "head": head_variables["params"]}
    # Without the zeros that some scales start from, so that every kernel has a gradient.
    params = jax.tree.map(lambda leaf: leaf + 0.5 if leaf.ndim == 1 else leaf, params)

    def loss(params, views):
        def embed(view):
            variables = {"params": params["backbone"], "batch_stats": backbone_variables["batch_stats"]}
            features, _ = backbone.apply(variables, view, train=True, mutable=["batch_stats"])
            variables = {"params": params["head"], "batch_stats": head_variables["batch_stats"]}
            return head.apply(variables, features, train=True, mutable=["batch_stats"])[0]

        return vicreg_loss(embed(views[0]), embed(views[1])).loss

    def gradient(devices, order):
        mesh = jax.make_mesh((devices, 1), AXES, (AxisType.Auto,) * 2, devices=jax.devices()[:devices])
        batch = tuple(jax.device_put(view[order], batch_sharding(mesh)) for view in views)
        found = jax.jit(jax.grad(loss), out_shardings=replicated(mesh))(jax.device_put(params, replicated(mesh)), batch)
        kernels = {path: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(found) if leaf.ndim > 1}
        return {path: np.asarray(leaf) for path, leaf in kernels.items()}

    def difference(a, b):
        return max(float(np.abs(a[path] - b[path]).max() / np.abs(a[path]).max()) for path in a)

    in_order, shuffled = np.arange(64), np.random.default_rng(0).permutation(64)
    one = gradient(1, in_order)
    reordered, on_eight = difference(one, gradient(1, shuffled)), difference(one, gradient(8, in_order))
    assert 0 < on_eight < 1.5 * reordered
