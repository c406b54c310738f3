"""The target network: its EMA update, and that it gets no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.methods import BYOL, METHODS

BATCH, DIM = 6, 4
pytestmark = pytest.mark.usefixtures("float64")


def make(linear, name, **fields):
    """A method, its variables, and two views."""
    views = tuple(jnp.asarray(np.random.default_rng(0).normal(size=(2, BATCH, DIM))))
    if name == "moco":
        fields = {"queue_size": 12, **fields}
    method = METHODS[name](linear(DIM), linear(DIM), **fields)
    return method, method.init(jax.random.key(0), views), views


def shifted_by(tree, shift):
    return jax.tree.map(lambda leaf: leaf + shift, tree)


def assert_equal(tree, expected):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12), tree, expected)


@pytest.mark.parametrize("name", ["byol", pytest.param("moco", marks=pytest.mark.slow)])
def test_target_starts_as_a_copy_and_moves_to_the_new_parameters(linear, name):
    method, (params, _, extra_state), _ = make(linear, name, momentum=0.9, final_momentum=0.9)
    parts = {part: params[part] for part in ("backbone", "head")}
    assert_equal(extra_state["target_params"], parts)
    after = method.after_update(shifted_by(params, 2.0), extra_state, jnp.asarray(0.3))
    assert_equal(after["target_params"], shifted_by(parts, 0.2))
    assert after.keys() == extra_state.keys()
    for what in extra_state.keys() - {"target_params"}:
        assert_equal(after[what], extra_state[what])


@pytest.mark.parametrize("name", ["byol", "moco"])
def test_target_is_a_copy_of_weights_that_are_given(linear, name):
    method, initial, _ = make(linear, name)
    given = {"backbone": {"params": {"kernel": np.full((DIM, DIM), 3.0)}, "batch_stats": {}}}
    replaced = method.replace_weights(initial, given)
    assert_equal(replaced.params["backbone"], given["backbone"]["params"])
    assert_equal(replaced.params["head"], initial.params["head"])
    assert_equal(replaced.extra_state["target_params"], replaced.params)
    for what in initial.extra_state.keys() - {"target_params"}:
        assert_equal(replaced.extra_state[what], initial.extra_state[what])


@pytest.mark.parametrize(
    ("name", "fields", "progress", "momentum"),
    [
        ("byol", {"momentum": 0.97}, 0.0, 0.97),
        ("byol", {"momentum": 0.97}, 0.25, 1 - 0.03 * (np.sqrt(0.5) + 1) / 2),
        ("byol", {"momentum": 0.97}, 0.5, 0.985),
        ("byol", {"momentum": 0.97}, 0.999, 1 - 0.03 * (np.cos(0.999 * np.pi) + 1) / 2),
        ("byol", {}, 0.0, 0.99),
        ("byol", {}, 1.0, 1.0),
        ("byol", {"momentum": 0.5, "final_momentum": 0.9}, 0.5, 0.7),
        ("moco", {}, 0.0, 0.999),
        ("moco", {}, 0.7, 0.999),
        ("moco", {"momentum": 0.99, "final_momentum": 1.0}, 0.5, 0.995),
    ],
)
def test_momentum_rises_along_a_cosine(linear, name, fields, progress, momentum):
    method, (params, _, extra_state), _ = make(linear, name, **fields)
    extra_state |= {"target_params": jax.tree.map(jnp.zeros_like, extra_state["target_params"])}
    after = method.after_update(jax.tree.map(jnp.ones_like, params), extra_state, jnp.asarray(progress))
    for leaf in jax.tree.leaves(after["target_params"]):
        np.testing.assert_allclose(1 - leaf, momentum, rtol=1e-14)


def test_without_momentum_the_target_equals_the_network(linear):
    method, (params, _, extra_state), _ = make(linear, "byol", momentum=0.0, final_momentum=0.0)
    for shift, progress in ((1.0, 0.0), (-3.0, 0.5)):
        params = shifted_by(params, shift)
        extra_state = method.after_update(params, extra_state, jnp.asarray(progress))
        assert_equal(extra_state["target_params"], params)


@pytest.mark.parametrize("name", ["byol", "moco"])
def test_target_affects_the_loss_and_gets_no_gradient(linear, name):
    method, (params, stats, extra_state), views = make(linear, name)
    loss_of_target = jax.jit(
        jax.value_and_grad(
            lambda target: method.loss(
                params, stats, extra_state | {"target_params": target}, views, jax.random.key(0)
            )[0]
        )
    )
    target = extra_state["target_params"]
    loss, slope = loss_of_target(target)
    shifted, _ = loss_of_target(shifted_by(target, 0.3))
    assert abs(loss - shifted) > 1e-3
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(slope))


def test_without_stop_gradient_the_target_is_unused(linear):
    method, (params, stats, extra_state), views = make(linear, "byol", stop_gradient=False)
    shifted = extra_state | {"target_params": shifted_by(extra_state["target_params"], 0.3)}
    gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    (loss, outputs), slope = gradient(params, stats, extra_state, views, jax.random.key(0))
    (shifted_loss, _), shifted_slope = gradient(params, stats, shifted, views, jax.random.key(0))
    assert_equal((shifted_loss, shifted_slope), (loss, slope))
    assert_equal(outputs.extra_state, extra_state)
    # The target starts as a copy: the first loss is the same, and by symmetry half of the gradient is gone.
    stopped = jax.jit(jax.value_and_grad(BYOL(method.backbone, method.head).loss, has_aux=True))
    (stopped_loss, _), half = stopped(params, stats, extra_state, views, jax.random.key(0))
    assert_equal((stopped_loss, jax.tree.map(lambda leaf: 2 * leaf, half)), (loss, slope))
