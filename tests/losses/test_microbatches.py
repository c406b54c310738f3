"""`in_microbatches` alone; tests/methods/test_microbatches.py has it in the step of every method."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from vicreg_jax import losses
from vicreg_jax.losses import in_microbatches

BATCH, COUNT = 24, 3
RNG = np.random.default_rng(0)
PARAMS = {
    "kernel_0": RNG.normal(size=(5, 7)),
    "bias_0": RNG.normal(size=7),
    "kernel_1": 0.3 * RNG.normal(size=(7, 16)),
}
VIEWS = RNG.normal(size=(BATCH, 5)) + 0.3 * RNG.normal(size=(3, BATCH, 5))
KEYS = RNG.normal(size=(9, 16))
LOSSES = {
    "vicreg": lambda a, b, c, **along: losses.vicreg_loss(a, b, **along).loss,
    "barlow_twins": lambda a, b, c, **along: losses.barlow_twins_loss(a, b, **along).loss,
    "nt_xent": lambda a, b, c, **along: losses.nt_xent_loss(a, b, **along),
    "debiased_contrastive": lambda a, b, c, **along: losses.debiased_contrastive_loss(a, b, **along),
    "info_nce": lambda a, b, c, **along: losses.info_nce_loss(a, b, jnp.asarray(KEYS), **along),
    "byol": lambda a, b, c, **along: losses.byol_loss(a, b, c, c, **along),
    "simsiam": lambda a, b, c, **along: losses.simsiam_loss(a, b, c, c, **along),
    "triplet": losses.triplet_loss,
}
DEFAULT = ("vicreg", "barlow_twins", "nt_xent")


def network(params, images):
    return jnp.tanh(images @ params["kernel_0"] + params["bias_0"][None]) @ params["kernel_1"]


def network_in_parts(params, images):
    return in_microbatches(network, params, images, COUNT)


def value_and_gradient(apply, name, **along):
    """A function of (params, views)."""
    return jax.value_and_grad(lambda params, views: LOSSES[name](*(apply(params, view) for view in views), **along))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def assert_close(actual, expected, relative=1e-11):
    """Relative to the largest entry of each array."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=relative, atol=relative * np.abs(e).max())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow) for name in LOSSES]
)
def test_equals_the_whole_batch(float64, name):
    expected = jax.jit(value_and_gradient(network, name))(PARAMS, VIEWS)
    assert_close(jax.jit(value_and_gradient(network_in_parts, name))(PARAMS, VIEWS), expected)


def test_mean_of_the_parts_gradients_is_another(float64):
    """Barlow Twins standardizes by the batch: in parts of four rows the dimensions correlate more."""
    gradient = jax.jit(lambda *arguments: value_and_gradient(network, "barlow_twins")(*arguments)[1])
    parts = [gradient(PARAMS, VIEWS[:, index::6]) for index in range(6)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 6, *parts)

    def norm(tree):
        return np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(tree)))

    assert norm(mean) / norm(gradient(PARAMS, VIEWS)) == pytest.approx(3.04, rel=0.01)


@pytest.mark.parametrize("check_vma", [True, False])
def test_shards_in_parts_equal_the_whole_batch(float64, check_vma):
    """Under a named axis each device splits its own rows."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])

    def on_one_device(params, views):
        value, gradient = value_and_gradient(network_in_parts, "vicreg", axis_name="data")(params, views)
        return value, lax.pmean(gradient, "data")

    in_specs = (P(), P(None, "data"))
    mapped = jax.shard_map(on_one_device, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=check_vma)
    assert_close(jax.jit(mapped)(PARAMS, VIEWS), jax.jit(value_and_gradient(network, "vicreg"))(PARAMS, VIEWS))


def test_pytrees_of_rows_keep_their_order():
    images, times = np.arange(24.0, dtype=np.float32).reshape(12, 2), np.arange(12, dtype=np.int32)
    keys = jax.random.split(jax.random.key(0), 12)
    seen = []

    def apply(params, inputs):
        seen.append(jax.tree.map(jnp.shape, inputs))
        noise = jax.vmap(jax.random.uniform)(inputs["keys"])
        return {"scaled": params * inputs["images"], "others": (inputs["times"], noise)}

    inputs = {"images": images, "times": times, "keys": keys}
    outputs = in_microbatches(apply, np.float32(2), inputs, 4)
    assert set(map(str, seen)) == {str({"images": (3, 2), "keys": (3,), "times": (3,)})}
    np.testing.assert_array_equal(outputs["scaled"], 2 * images)
    np.testing.assert_array_equal(outputs["others"][0], times)
    np.testing.assert_array_equal(outputs["others"][1], jax.vmap(jax.random.uniform)(keys))


def test_aux_is_the_mean_over_strided_microbatches():
    images = RNG.normal(size=(12, 5)).astype(np.float32)

    def apply(params, images):
        return images + params, {"mean": jnp.mean(images, axis=0), "first": images[0]}

    outputs, aux = jax.jit(partial(in_microbatches, apply, count=3, has_aux=True))(np.float32(1), images)
    np.testing.assert_array_equal(outputs, images + 1)
    np.testing.assert_allclose(aux["mean"], images.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(aux["first"], images[:3].mean(axis=0), rtol=1e-5, atol=1e-6)  # rows 0, 1 and 2


def test_strict_promotion():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        params, views = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (PARAMS, VIEWS))

        def objective(params):
            z, aux = in_microbatches(lambda *args: (network(*args), jnp.zeros(3)), params, views[0], 2, has_aux=True)
            return jnp.mean(z) + jnp.mean(aux).astype(z.dtype)

        gradient = jax.jit(jax.grad(objective))(params)
        assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.bfloat16)}


def identity(params, inputs):
    return inputs


@pytest.mark.parametrize(
    ("inputs", "count", "message"),
    [
        (np.ones((6, 2)), 0, "count must be a positive integer; got 0"),
        (np.ones((6, 2)), 2.0, "count must be a positive integer; got 2.0"),
        (np.ones((16, 2)), 3, "inputs must have a batch divisible by count, 3; got 16"),
        (np.ones((2, 2)), 3, "inputs must have a batch divisible by count, 3; got 2"),
        ({}, 2, "inputs must have at least one array; got {}"),
        (1.0, 2, "inputs must have shape [batch, ...] with at least one row; got shape ()"),
        (np.ones((0, 2)), 2, "inputs must have shape [batch, ...] with at least one row; got shape (0, 2)"),
        (
            (np.ones((6, 2)), np.ones(4)),
            2,
            "inputs must have one batch size, 6 as in the first array; got shape (4,)",
        ),
    ],
)
def test_inputs_that_do_not_split(inputs, count, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        in_microbatches(identity, None, inputs, count)


@pytest.mark.parametrize(
    ("apply", "has_aux", "error", "message"),
    [
        (lambda params, x: jnp.mean(x), False, ValueError, "apply must return one row per input row, [3, ...]; got"),
        (lambda params, x: (x, x[0]), False, ValueError, "shape (2,); pass has_aux=True if apply also returns"),
        (lambda params, x: (x[:2], x), True, ValueError, "one row per input row, [3, ...]; got shape (2, 2)"),
        (identity, True, TypeError, "apply must return a pair (outputs, aux) with has_aux; got "),
    ],
)
def test_results_that_do_not_join(apply, has_aux, error, message):
    with pytest.raises(error, match=re.escape(message)):
        in_microbatches(apply, None, np.ones((6, 2)), 2, has_aux=has_aux)
