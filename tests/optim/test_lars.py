"""LARS against the official update rule in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vicreg_jax.optim import OptimizerOptions, create_optimizer, lars, warmup_cosine

SHAPES = {
    "conv": {"kernel": (3, 3, 4, 8)},
    "norm": {"scale": (8,), "bias": (8,)},
    "dense": {"kernel": (8, 16), "bias": (16,)},
    "zero": {"kernel": (2, 2)},
}


def is_shape(node):
    return isinstance(node, tuple)


def draw(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: rng.normal(size=shape), SHAPES, is_leaf=is_shape)


def initial_params():
    params = draw(0)
    params["zero"]["kernel"][:] = 0  # the trust ratio of a zero norm is 1
    return params


def reference(params, gradients, rates, weight_decay, momentum=0.9, eta=1e-3):
    """The parameters after the official LARS has applied these gradients."""
    leaves, tree = jax.tree.flatten(params)
    leaves = [leaf.copy() for leaf in leaves]
    buffers = [np.zeros_like(leaf) for leaf in leaves]
    for step_gradients, rate in zip(gradients, rates, strict=True):
        for leaf, buffer, gradient in zip(leaves, buffers, jax.tree.leaves(step_gradients), strict=True):
            if leaf.ndim != 1:
                update = gradient + weight_decay * leaf
                norm, update_norm = np.sqrt(np.sum(leaf**2)), np.sqrt(np.sum(update**2))
                gradient = update * (eta * norm / update_norm if norm > 0 and update_norm > 0 else 1)
            buffer[:] = momentum * buffer + gradient
            leaf -= rate * buffer
    return tree.unflatten(leaves)


def train(optimizer, params, gradients):
    @jax.jit
    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for step_gradients in gradients:
        params, state = step(params, state, step_gradients)
    return params


def test_hundred_steps_with_a_schedule_match_the_official_rule():
    # The learning rate varies, so that inside the momentum buffer it would give another trajectory.
    gradients = [draw(seed) for seed in range(1, 101)]
    gradients[50]["conv"]["kernel"][:] = 0
    peak, warmup, total = 0.4 * 512 / 256, 10, 100
    rates = [peak * step / warmup for step in range(warmup)]
    for step in range(total - warmup):
        q = (1 + np.cos(np.pi * step / (total - warmup))) / 2
        rates.append(peak * q + 0.001 * peak * (1 - q))
    params = initial_params()
    expected = reference(params, gradients, rates, weight_decay=0.1)
    with jax.enable_x64(True):
        schedule = warmup_cosine(0.4, batch_size=512, steps_per_epoch=5, warmup_epochs=2, epochs=20)
        actual = train(lars(schedule, 0.1), jax.tree.map(jnp.asarray, params), gradients)
        actual = jax.tree.map(np.asarray, actual)
    assert not jax.config.jax_enable_x64
    for start, a, b in zip(*map(jax.tree.leaves, (params, actual, expected)), strict=True):
        assert a.dtype == np.float64
        moved = np.linalg.norm(b - start)
        assert moved > 0
        assert np.linalg.norm(a - b) / moved < 1e-6


def test_parameters_with_one_dimension_get_plain_momentum_without_decay():
    params, gradients = jax.tree.map(jnp.asarray, initial_params()), [draw(1), draw(2)]
    actual = train(lars(0.5, weight_decay=0.1), params, gradients)
    for module, name in (("norm", "scale"), ("norm", "bias"), ("dense", "bias")):
        first, second = gradients[0][module][name], gradients[1][module][name]
        expected = params[module][name] - 0.5 * (first + (0.9 * first + second))
        np.testing.assert_allclose(actual[module][name], expected, rtol=1e-5, atol=1e-6)


def test_adapted_step_has_the_length_of_the_trust_ratio():
    params, gradients = jax.tree.map(jnp.asarray, initial_params()), [draw(1)]
    actual = train(lars(2.0, weight_decay=0.0, trust_coefficient=0.01), params, gradients)
    before, after = params["dense"]["kernel"], actual["dense"]["kernel"]
    np.testing.assert_allclose(jnp.linalg.norm(after - before), 0.02 * jnp.linalg.norm(before), rtol=1e-5)
    # The ratio of a parameter with zero norm is 1; otherwise it would never move.
    np.testing.assert_allclose(actual["zero"]["kernel"], -2.0 * gradients[0]["zero"]["kernel"], rtol=1e-6)


def test_norms_of_sharded_parameters_are_global():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    params = {"kernel": jnp.asarray(draw(0)["dense"]["kernel"] * np.arange(1, 9)[:, None], jnp.float32)}
    gradients = [{"kernel": jnp.asarray(draw(seed)["dense"]["kernel"], jnp.float32)} for seed in (1, 2)]
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    optimizer = create_optimizer(OptimizerOptions("lars", weight_decay=0.1), 0.5)
    expected = train(optimizer, params, gradients)
    actual = train(optimizer, jax.device_put(params, sharding), jax.device_put(gradients, sharding))
    np.testing.assert_allclose(actual["kernel"], expected["kernel"], rtol=1e-5, atol=1e-7)
