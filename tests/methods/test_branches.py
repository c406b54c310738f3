"""Branches that share all, some or none of their weights, and initialization from the same key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vicreg_jax.losses import corinfomax_state, vicreg_loss
from vicreg_jax.methods import METHODS, VICReg
from vicreg_jax.models import Head

BATCH = 8
PAIRED = [
    name if name in ("vicreg", "simclr") else pytest.param(name, marks=pytest.mark.slow)
    for name, method in METHODS.items()
    if method.takes_second_branch
]


class OfImage(nn.Module):
    @nn.compact
    def __call__(self, images, *, train=False):
        return nn.relu(nn.Dense(6)(images.reshape(len(images), -1)))


class OfTrace(nn.Module):
    @nn.compact
    def __call__(self, traces, *, train=False):
        x = nn.Conv(5, (3,), use_bias=False)(traces[..., None])
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return jnp.mean(x, axis=1)


def images_and_traces():
    images = np.random.default_rng(0).normal(size=(BATCH, 4, 4, 1)).astype(np.float32)
    return images, images.sum(axis=(2, 3)) + 0.1 * images[:, 0, :, 0]


def random_variables(method, views):
    """Random variables with the structure of `init`, without its compilation."""
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(method.init, jax.random.key(0), views)
    return jax.tree.map(lambda leaf: np.float32(random.normal(size=leaf.shape)), shapes)


@pytest.mark.parametrize("name", PAIRED)
def test_gradient_reaches_every_part_of_branches_that_share_nothing(name):
    method = METHODS[name](OfImage(), Head((7, 4)), second_backbone=OfTrace(), second_head=Head((9, 4)))
    views = images_and_traces()
    params, stats, extra_state = random_variables(method, views)
    if name == "corinfomax":  # its covariances must be some
        extra_state = corinfomax_state(4)._asdict()
    assert params.keys() == stats.keys() == {"backbone", "head", "second_backbone", "second_head"}
    gradient = jax.jit(jax.grad(method.loss, has_aux=True))
    slopes, outputs = gradient(params, stats, extra_state, views, jax.random.key(1))
    # A bias before a BatchNorm has no effect.
    slopes["head"]["dense_0"].pop("bias"), slopes["second_head"]["dense_0"].pop("bias")
    for path, leaf in jax.tree_util.tree_leaves_with_path(slopes):
        assert np.abs(leaf).max() > 1e-6, path
    assert outputs.features.shape == (BATCH, 6)
    assert outputs.embeddings.shape == (BATCH, 4)
    moved = jax.tree.map(lambda new, old: float(jnp.abs(new - old).max()), outputs.batch_stats, stats)
    assert moved["backbone"] == {}
    assert min(jax.tree.leaves(moved)) > 0
    assert len(jax.tree.leaves(moved)) == 6


def test_two_modalities_in_a_few_lines():
    """Each branch processes its input with its own modules only."""
    method = VICReg(OfImage(), Head((4,)), second_backbone=OfTrace(), second_head=Head((4,)))
    images, traces = images_and_traces()
    params, stats, extra_state = random_variables(method, (images, traces))
    loss, outputs = jax.jit(method.loss)(params, stats, extra_state, (images, traces), jax.random.key(1))

    def apply(part, inputs):
        module = getattr(method, part)
        variables = {"params": params[part], "batch_stats": stats[part]}
        run = jax.jit(lambda variables, inputs: module.apply(variables, inputs, train=True, mutable=["batch_stats"])[0])
        return run(variables, inputs)

    z_a, z_b = apply("head", apply("backbone", images)), apply("second_head", apply("second_backbone", traces))
    np.testing.assert_allclose(loss, vicreg_loss(z_a, z_b).loss, rtol=1e-5)
    np.testing.assert_allclose(outputs.embeddings, z_a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vicreg", "second_backbone"),
        ("simclr", "second_head"),
        pytest.param("vicreg", "second_head", marks=pytest.mark.slow),
        pytest.param("simclr", "second_backbone", marks=pytest.mark.slow),
    ],
)
def test_second_branch_may_have_one_separate_part(name, part):
    parts = (OfImage(), Head((4,)))
    module = dict(zip(("second_backbone", "second_head"), parts, strict=True))[part]
    shared, method = METHODS[name](*parts), METHODS[name](*parts, **{part: module})
    images, _ = images_and_traces()
    views = images, images[::-1] + 0.5
    params, stats, extra_state = jax.jit(method.init)(jax.random.key(0), views)
    first = part.removeprefix("second_")
    assert params.keys() == {"backbone", "head", part}
    assert jax.tree.structure(params[part]) == jax.tree.structure(params[first])
    copied = params | {part: params[first]}
    compute = jax.jit(method.loss)
    loss, copied_loss = (compute(p, stats, extra_state, views, jax.random.key(1))[0] for p in (params, copied))
    shared_loss, _ = jax.jit(shared.loss)(params, stats, extra_state, views, jax.random.key(1))
    np.testing.assert_allclose(copied_loss, shared_loss, rtol=1e-5)
    assert abs(loss - shared_loss) > 1e-3


@pytest.mark.slow
def test_same_key_gives_every_method_the_same_network():
    """Comparisons of methods start from the same network, whatever other parts a method has."""
    view = jnp.ones((1, 3))
    networks = []
    for name, method_class in METHODS.items():
        for predictor in (None, Head((4,))) if method_class.takes_predictor else (None,):
            fields = {"queue_size": 8} if name == "moco" else {}
            if predictor is not None:
                fields["predictor"] = predictor
            method = method_class(Head((6, 6)), Head((5, 4), **method_class.head_options), **fields)
            params = method.init(jax.random.key(3), (view, view)).params
            kernels = {name: layer["kernel"] for name, layer in params["head"].items() if "kernel" in layer}
            networks.append((params["backbone"], kernels))
            parts = params if predictor is None else params | {"predictor": None}
            drawn = [params[part]["dense_0"]["kernel"].ravel()[:12] for part in parts if params[part] is not None]
            assert len(np.unique(np.concatenate(drawn))) == 12 * len(parts)
    for network in networks[1:]:
        jax.tree.map(np.testing.assert_array_equal, network, networks[0])
