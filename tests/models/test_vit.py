"""ViT against a float64 NumPy reference, and its options."""

import doctest
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.models import STOCHASTIC_DEPTH, ViT, count_parameters, create_backbone, vit
from vicreg_jax.models.vit import resize_positions

PATCH, DIM, DEPTH, HEADS, SIZE = 4, 12, 2, 3, 8


def model_of(**options):
    fields = {"patch_size": PATCH, "dim": DIM, "depth": DEPTH, "heads": HEADS, "image_size": SIZE}
    return ViT(**fields | options)


def images_of(size=SIZE, batch=3, channels=2, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, size, size, channels)).astype(np.float32)


def variables_of(model, images, seed=1):
    """Random ones: without zero biases and unit scales, so that each one matters."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: random.normal(0.1, 0.3, leaf.shape).astype(np.float32), shapes)


def layer_norm(x, weights):
    centered = x - x.mean(-1, keepdims=True)
    scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * weights["scale"] + weights["bias"]


def dense(x, weights):
    return x @ weights["kernel"] + weights["bias"]


def attention(x, weights):
    heads = [part.reshape(*x.shape[:2], HEADS, -1) for part in np.split(dense(x, weights["qkv"]), 3, axis=-1)]
    queries, keys, values = (part.transpose(0, 2, 1, 3) for part in heads)
    logits = queries @ keys.transpose(0, 1, 3, 2) / math.sqrt(DIM // HEADS)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    attended = exponentials / exponentials.sum(-1, keepdims=True) @ values
    return dense(attended.transpose(0, 2, 1, 3).reshape(x.shape), weights["proj"])


def mlp(x, weights):
    hidden = dense(x, weights["fc1"])
    return dense(hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2, weights["fc2"])


def reference(variables, images, pooling):
    """The features in float64, for images of the size that the positions are learned for."""
    weights, images = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (variables["params"], images))
    side = images.shape[1] // PATCH
    patches = images.reshape(len(images), side, PATCH, side, PATCH, -1).transpose(0, 1, 3, 2, 4, 5)
    kernel = weights["patch_embed"]["proj"]["kernel"].reshape(-1, DIM)
    x = patches.reshape(len(images), side**2, -1) @ kernel + weights["patch_embed"]["proj"]["bias"]
    if pooling == "token":
        x = np.concatenate([np.repeat(weights["cls_token"], len(images), axis=0), x], axis=1)
    x = x + weights["pos_embed"]
    for index in range(DEPTH):
        block = weights[f"blocks_{index}"]
        x = x + attention(layer_norm(x, block["norm1"]), block["attn"])
        x = x + mlp(layer_norm(x, block["norm2"]), block["mlp"])
    x = layer_norm(x, weights["norm"])
    return x[:, 0] if pooling == "token" else x.mean(1)


@pytest.mark.parametrize("pooling", ["token", "mean"])
def test_features_equal_the_reference(pooling):
    model, images = model_of(pooling=pooling), images_of()
    variables = variables_of(model, images)
    features = jax.jit(model.apply)(variables, images)
    assert (features.dtype, model.feature_dim) == (jnp.float32, DIM)
    np.testing.assert_allclose(features, reference(variables, images, pooling), rtol=1e-4, atol=1e-4)


# timm's counts of vit_*_patch16_224 without the classifier for 1000 classes.
@pytest.mark.parametrize(
    ("name", "with_classifier", "dim"),
    [
        ("vit_tiny_patch16", 5_717_416, 192),
        ("vit_small_patch16", 22_050_664, 384),
        pytest.param("vit_base_patch16", 86_567_656, 768, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts_are_timms(name, with_classifier, dim):
    model = create_backbone(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert model.feature_dim == dim
    assert count_parameters(shapes) == with_classifier - 1000 * (dim + 1)


def test_positions_are_interpolated_for_other_sizes():
    """Positions that grow linearly along the rows keep their range; the class token keeps its own."""
    rows = np.repeat(np.arange(4.0), 4)[:, None] * np.ones(DIM)
    positions = np.concatenate([np.full((1, DIM), 7.0), rows])[None].astype(np.float32)
    np.testing.assert_array_equal(resize_positions(positions, 1, (4, 4)), positions)
    smaller = np.asarray(resize_positions(positions, 1, (2, 4)))
    np.testing.assert_array_equal(smaller[:, 0], 7.0)
    of_rows = smaller[0, 1:, 0].reshape(2, 4)
    np.testing.assert_allclose(of_rows[:, :1] + np.zeros((1, 4)), of_rows, rtol=1e-5)
    np.testing.assert_allclose(of_rows.sum(0), 3.0, rtol=1e-5)  # symmetric about the middle, 1.5
    assert 0 <= of_rows[0, 0] < 1 < of_rows[1, 0] <= 3


def test_half_of_the_images_skip_a_block_and_the_others_make_up_for_it():
    model, images = model_of(stochastic_depth=0.5), np.repeat(images_of(batch=1), 400, axis=0)
    variables = variables_of(model, images)
    apply = jax.jit(model.apply)
    kept = apply(variables, images[:1])
    np.testing.assert_array_equal(apply(variables, images[:2], rngs={}), apply(variables, images[:2]))
    features = apply(variables, images, rngs={STOCHASTIC_DEPTH: jax.random.key(0)})
    different, counts = np.unique(np.round(np.asarray(features), 3), axis=0, return_counts=True)
    assert len(different) == 4  # the second block's two branches, each kept or skipped
    assert counts.min() > 60
    assert np.abs(different - np.asarray(kept)).max(axis=1).min() > 1e-2  # what is kept is scaled
    again = apply(variables, images, rngs={STOCHASTIC_DEPTH: jax.random.key(0)})
    np.testing.assert_array_equal(features, again)


@pytest.mark.slow
def test_sixteen_bits_stay_close_and_parameters_stay_float32():
    images = images_of()
    exact, model = model_of(), model_of(dtype=jnp.bfloat16)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}

    weights = np.random.default_rng(2).normal(size=(len(images), DIM))

    def step(model):
        return jax.jit(jax.value_and_grad(lambda v: jnp.sum(weights * model.apply(v, images))))(variables)

    (loss, gradient), (expected, expected_gradient) = step(model), step(exact)
    np.testing.assert_allclose(loss, expected, rtol=0.05)
    for actual, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        assert actual.dtype == jnp.float32
        assert np.linalg.norm(actual - wanted) <= 0.1 * np.linalg.norm(wanted) + 1e-2


def test_every_product_is_in_sixteen_bits():
    images, model = images_of(), model_of(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    text = jax.jit(model.apply).lower(shapes, images).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line or "convolution" in line]
    assert len(products) == 1 + DEPTH * 6
    inputs = [found for line in products for found in re.findall(r"tensor<[^>]*>(?=[^>]*[,)])", line)]
    assert len(inputs) == 2 * len(products)
    assert all(found.endswith("xbf16>") for found in inputs)


@pytest.mark.slow
def test_remat_changes_no_value():
    images = images_of()
    variables = variables_of(model_of(), images)

    def step(model):
        return jax.jit(jax.value_and_grad(lambda v: jnp.sum(model.apply(v, images) ** 2)))(variables)

    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5),
        step(model_of(remat=True)),
        step(model_of()),
    )


@pytest.mark.parametrize(
    ("options", "shape", "complaint"),
    [
        ({"pooling": "max"}, (1, 8, 8, 1), r"pooling must be one of token, mean; got 'max'"),
        ({"stochastic_depth": 1.0}, (1, 8, 8, 1), r"stochastic_depth must be at least 0 and below 1; got 1.0"),
        ({"heads": 5}, (1, 8, 8, 1), r"heads must divide dim, 12; got 5"),
        ({"image_size": 10}, (1, 8, 8, 1), r"patch_size must divide the side of the images, 10; got 4"),
        ({}, (1, 8, 10, 1), r"patch_size must divide the side of the images, 10; got 4"),
        ({}, (8, 8, 1), r"images must have shape \[batch, height, width, channels\]; got shape \(8, 8, 1\)"),
    ],
)
def test_bad_input_gets_one_line(options, shape, complaint):
    with pytest.raises(ValueError, match=rf"^{complaint}(\n|$)"):
        jax.eval_shape(model_of(**options).init, jax.random.key(0), jnp.zeros(shape))


def test_registry_refuses_what_no_vit_has():
    for options, complaint in (
        ({"image_size": 30}, r"image_size must be a multiple of 16, the patches of vit_tiny_patch16; got 30"),
        ({"pooling": "max"}, r"pooling must be one of token, mean; got 'max'"),
        ({"width": 0.1}, r"width must be a number that leaves at least one of 3 heads; got 0.1"),
    ):
        with pytest.raises(ValueError, match=f"^{complaint}$"):
            create_backbone("vit_tiny_patch16", **options)
    assert create_backbone("vit_tiny_patch4", width=2, image_size=32).feature_dim == 384


def test_doctest():
    assert doctest.testmod(vit).failed == 0
