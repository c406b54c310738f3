"""Networks other than chains of dense layers."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.locoprop.build import build

KEY = jax.random.key(0, impl="rbg")
SGD = {"inner_optimizer": optax.sgd, "learning_rate": 0.01, "activation_rate": 2.0, "local_steps": 3}


def mean_square(outputs, targets):
    return jnp.mean(jnp.sum(jnp.square(outputs - targets).reshape(len(outputs), -1), axis=1))


def step(model, inputs, loss=mean_square, targets=0.0, warning=None, **options):
    """States before and after a step of gradient descent, in NumPy, and the builder.

    The first state has random parameters, which take no compilation.
    """
    train = build(model, loss, **SGD | options)
    random = np.random.default_rng(1)
    with contextlib.nullcontext() if warning is None else pytest.warns(UserWarning, match=warning):
        before = jax.eval_shape(train.init, KEY, (inputs, targets))
    before = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), before)
    before = before._replace(params=jax.tree.map(lambda leaf: random.normal(0, 0.5, leaf.shape), before.params))
    with jax.enable_x64(True):
        after, _ = train.step(before, (inputs, targets))
    return before, jax.tree.map(np.asarray, after), train


def gradient(model, before, inputs, loss=mean_square, targets=0.0):
    with jax.enable_x64(True):
        of = jax.grad(lambda p: loss(model.apply({"params": p, **before.model_state}, inputs), targets))
        return jax.tree.map(np.asarray, jax.jit(of)(before.params))


def assert_updated_by(update, before, after):
    jax.tree.map(lambda u, b, a: np.testing.assert_allclose(a - b, u, rtol=1e-9, atol=1e-13), update, before, after)


class Convolution(nn.Module):
    convolution: nn.Conv

    @nn.compact
    def __call__(self, images):
        hidden = nn.tanh(self.convolution.copy(name="linear")(images))
        return nn.Dense(3, name="head")(hidden.reshape(len(images), -1))


class OverPatches(nn.Module):
    features: int

    @nn.compact
    def __call__(self, patches):
        return nn.Dense(3, name="head")(
            nn.tanh(nn.Dense(self.features, name="linear")(patches)).reshape(len(patches), -1)
        )


def patches_of(images, size, strides, padding, dilation):
    """Patches `[batch, rows, columns, size * size * channels]`, by a loop."""
    padded = np.pad(images, [(0, 0), padding[0], padding[1], (0, 0)])
    reach = (size - 1) * dilation + 1
    tops = range(0, padded.shape[1] - reach + 1, strides[0])
    lefts = range(0, padded.shape[2] - reach + 1, strides[1])
    rows = [
        [padded[:, t : t + reach : dilation, left : left + reach : dilation].reshape(len(images), -1) for left in lefts]
        for t in tops
    ]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


@pytest.mark.parametrize(
    ("variant", "form", "strides", "padding", "dilation"),
    [
        ("m", "plain", (2, 1), ((0, 2), (1, 0)), 1),
        ("s", "gram", (1, 1), ((1, 1), (1, 1)), 1),
        ("s", "gram", (1, 2), ((0, 0), (1, 0)), 2),
    ],
)
def test_a_convolution_is_a_dense_layer_over_patches(variant, form, strides, padding, dilation):
    images = np.random.default_rng(0).normal(size=(4, 6, 7, 2))
    patches = patches_of(images, 3, strides, padding, dilation)
    convolution = nn.Conv(5, (3, 3), strides=strides, padding=padding, kernel_dilation=dilation)
    before, after, _ = step(Convolution(convolution), images, variant=variant, local_form=form)
    dense = build(OverPatches(5), mean_square, **SGD, variant=variant, local_form="plain")
    kernel = before.params["linear"]["kernel"]
    params = before.params | {"linear": before.params["linear"] | {"kernel": kernel.reshape(-1, 5)}}
    with jax.enable_x64(True):
        expected, _ = dense.step(before._replace(params=params), (patches, 0.0))
    flat = after.params | {
        "linear": after.params["linear"] | {"kernel": after.params["linear"]["kernel"].reshape(-1, 5)}
    }
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-12), flat, dict(expected.params))
    assert np.abs(after.params["linear"]["kernel"] - kernel).max() > 1e-3


@pytest.mark.parametrize(
    ("padding", "groups"), [pytest.param("SAME", 1, marks=pytest.mark.slow), ("CIRCULAR", 1), ("SAME", 2)]
)
def test_gram_form_and_plain_form_of_convolutions(padding, groups):
    """With several feature groups there is no Gram form; the plain form is used."""
    images = np.random.default_rng(0).normal(size=(3, 5, 6, 4))
    model = nn.Conv(6, (3, 2), padding=padding, feature_group_count=groups, use_bias=padding == "SAME")
    results = []
    for form in ("gram", "plain"):
        before, after, train = step(model, images, variant="s", local_form=form)
        results.append(after.params)
        assert train.layers((images, 0.0))[0].form == (form if groups == 1 else "plain")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), *results)
    assert np.abs(results[0]["kernel"] - before.params["kernel"]).max() > 1e-3


@pytest.mark.parametrize(
    "layer",
    [
        nn.DenseGeneral((3, 2), axis=(-2, -1)),
        nn.ConvTranspose(3, (2, 2), strides=(2, 2)),
        nn.Conv(4, (3,), padding="CAUSAL", use_bias=False),
        nn.Conv(4, (2, 2), feature_group_count=2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_first_step_of_any_linear_layer_is_backpropagation(layer):
    inputs = np.random.default_rng(0).normal(size=(3, 4, 4, 2))
    model = nn.Sequential([layer, nn.tanh])
    before, after, train = step(model, inputs, local_steps=1)
    assert [found.transfer for found in train.layers((inputs, 0.0))] == ["tanh"]
    by_loss = gradient(model, before, inputs)
    assert_updated_by(jax.tree.map(lambda g: -0.01 * 2.0 * g, by_loss), before.params, after.params)


class Normalized(nn.Module):
    """Has every kind of parameter without a local loss."""

    @nn.compact
    def __call__(self, x, train=True):
        hidden = nn.Dense(5)(x)
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
        shared = nn.Dense(5, name="shared")
        hidden = nn.tanh(shared(nn.tanh(shared(hidden))))
        hidden = nn.tanh(nn.remat(nn.Dense)(5, name="again")(hidden))
        hidden = nn.WeightNorm(nn.Dense(4, name="scaled"))(hidden)
        return hidden * self.param("scale", nn.initializers.ones, (4,))


def test_other_parameters_are_trained_by_backpropagation_with_a_warning():
    inputs = np.random.default_rng(0).normal(size=(6, 3))
    named = r"trained by backpropagation: .*BatchNorm_0/scale.*again/kernel.*scale.*scaled/kernel.*shared/kernel"
    options = {"variant": "s", "call_options": {"train": True}}
    before, after, train = step(Normalized(), inputs, warning=named, **options)
    assert [layer.name for layer in train.layers((inputs, 0.0))] == ["Dense_0"]

    def loss(params):
        variables = {"params": params, **before.model_state}
        return mean_square(Normalized().apply(variables, inputs, mutable=["batch_stats"])[0], 0.0)

    with jax.enable_x64(True):
        by_loss = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(before.params))
    factor = -0.01 * 2.0 * (1 + 2 / 3 + 1 / 3)
    others = [{k: v for k, v in tree.items() if k != "Dense_0"} for tree in (by_loss, before.params, after.params)]
    assert_updated_by(jax.tree.map(lambda g: factor * g, others[0]), *others[1:])
    # The one forward pass updates the running statistics.
    mean = (inputs @ before.params["Dense_0"]["kernel"] + before.params["Dense_0"]["bias"]).mean(axis=0)
    np.testing.assert_allclose(after.model_state["batch_stats"]["BatchNorm_0"]["mean"], 0.01 * mean, rtol=1e-6)


def test_network_without_linear_layers_is_rejected():
    with pytest.raises(ValueError, match=r"model must have nn\.Dense or nn\.Conv layers"):
        step(nn.Sequential([nn.LayerNorm()]), np.ones((2, 3)))


def test_network_of_one_layer_has_the_empty_name():
    model, inputs = nn.Dense(3), np.random.default_rng(0).normal(size=(4, 2))
    before, after, train = step(model, inputs, local_steps=1)
    assert [layer.name for layer in train.layers((inputs, 0.0))] == [""]
    assert_updated_by(jax.tree.map(lambda g: -0.02 * g, gradient(model, before, inputs)), before.params, after.params)


@pytest.mark.slow
def test_16_bit_layers_keep_32_bit_parameters():
    model = nn.Sequential([nn.Dense(5, dtype=jnp.bfloat16), nn.tanh, nn.Dense(3, dtype=jnp.bfloat16)])
    inputs = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    options = {"variant": "s", "learning_rate": 0.01}
    in_float32 = build(nn.Sequential([nn.Dense(5), nn.tanh, nn.Dense(3)]), mean_square, **options)
    state = in_float32.init(KEY, (inputs, 0.0))
    expected, _ = in_float32.step(state, (inputs, 0.0))
    for form in ("plain", "gram"):
        after, _ = build(model, mean_square, local_form=form, **options).step(state, (inputs, 0.0))
        for a, e, b in zip(*[jax.tree.leaves(tree.params) for tree in (after, expected, state)], strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a - b, e - b, atol=0.1 * np.abs(e - b).max())


def test_flops_choose_the_form():
    model = nn.Dense(40)
    few, many = [jax.ShapeDtypeStruct((batch, 30), jnp.float32) for batch in (2, 500)]
    layers = build(model, mean_square, variant="s").layers
    assert [layers((inputs, 0.0))[0].form for inputs in (few, many)] == ["plain", "gram"]
    assert layers((many, 0.0))[0].flops.plain == 10 * 4 * 500 * 31 * 40
