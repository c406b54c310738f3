"""Each option of the optimizers: trajectories with a varying learning rate against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vicreg_jax.optim import OptimizerOptions, create_optimizer, warmup_cosine

SHAPES = {
    "backbone": {"kernel": (3, 4), "bias": (4,), "zero": (2, 2)},
    "predictor": {"kernel": (4, 2), "bias": (2,)},
}
RATES = (0.0, 0.02, 0.05, 0.04, 0.01)
WEIGHT_DECAY, MOMENTUM, TRUST_COEFFICIENT = 0.3, 0.8, 0.05


def draw(seed):
    rng = np.random.default_rng(seed)
    tree = {group: {name: rng.normal(size=shape) for name, shape in SHAPES[group].items()} for group in SHAPES}
    if seed == 0:
        tree["backbone"]["zero"][:] = 0  # the trust ratio of a zero norm is 1, clipped or not
    return tree


PARAMS, GRADIENTS = draw(0), [draw(seed) for seed in range(1, 1 + len(RATES))]


def reference(
    name,
    group,
    parameter,
    decay_biases=False,
    bias_lr_factor=1.0,
    clip_trust_ratio=False,
    lr_in_momentum=False,
    constant_predictor_lr=None,
):
    """One parameter after all of its gradients."""
    w = PARAMS[group][parameter].copy()
    m, v = np.zeros_like(w), np.zeros_like(w)
    decay = WEIGHT_DECAY if w.ndim > 1 or decay_biases else 0.0
    for step, scheduled in enumerate(RATES):
        g = GRADIENTS[step][group][parameter]
        rate = scheduled if constant_predictor_lr is None or group != "predictor" else constant_predictor_lr
        rate *= 1.0 if w.ndim > 1 else bias_lr_factor
        if name != "adamw":
            g = g + decay * w
        if name == "lars" and w.ndim > 1 and np.linalg.norm(w) > 0:
            ratio = TRUST_COEFFICIENT * np.linalg.norm(w) / np.linalg.norm(g)
            if clip_trust_ratio:
                ratio = min(ratio / rate, 1.0) if rate > 0 else 1.0
            g = g * ratio
        if name in ("adam", "adamw"):
            m = MOMENTUM * m + (1 - MOMENTUM) * g
            v = 0.999 * v + 0.001 * g**2
            direction = m / (1 - MOMENTUM ** (step + 1)) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
            w = w - rate * (direction + (decay * w if name == "adamw" else 0.0))
        elif lr_in_momentum:
            m = MOMENTUM * m + rate * g
            w = w - m
        else:
            m = MOMENTUM * m + g
            w = w - rate * m
    return w


def train(optimizer):
    @jax.jit
    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, PARAMS)
    state = optimizer.init(params)
    for gradients in GRADIENTS:
        params, state = step(params, state, gradients)
    return jax.tree.map(np.asarray, params)


def schedule(step):
    return jnp.asarray(RATES)[step]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {"decay_biases": True, "bias_lr_factor": 0.5}),
        ("adamw", {"decay_biases": True, "constant_predictor_lr": 0.03}),
        ("sgd", {"bias_lr_factor": 0.024, "constant_predictor_lr": 0.03}),
        ("lars", {"decay_biases": True}),
        ("lars", {"lr_in_momentum": True, "constant_predictor_lr": 0.03}),
        ("lars", {"clip_trust_ratio": True, "lr_in_momentum": True, "bias_lr_factor": 2.0}),
        pytest.param("adam", {}, marks=pytest.mark.slow),
        pytest.param("sgd", {"decay_biases": True, "constant_predictor_lr": 0.03}, marks=pytest.mark.slow),
        pytest.param("lars", {"bias_lr_factor": 0.024}, marks=pytest.mark.slow),
        pytest.param("lars", {"clip_trust_ratio": True}, marks=pytest.mark.slow),
    ],
)
def test_trajectory_matches_the_formulas(name, options):
    with jax.enable_x64(True):
        fields = {name: value for name, value in options.items() if name != "constant_predictor_lr"}
        optimizer = create_optimizer(
            OptimizerOptions(name, WEIGHT_DECAY, MOMENTUM, TRUST_COEFFICIENT, **fields),
            schedule,
            constant_predictor_lr=options.get("constant_predictor_lr"),
        )
        actual = train(optimizer)
    for group in SHAPES:
        for parameter in SHAPES[group]:
            expected = reference(name, group, parameter, **options)
            np.testing.assert_allclose(actual[group][parameter], expected, rtol=1e-9, atol=1e-12)


def decay_mask(params):
    return jax.tree.map(lambda leaf: leaf.ndim != 1, params)


def test_defaults_keep_the_plain_state_and_bits():
    # The same structure, so that checkpoints older than the options can be restored, and the same bits.
    decay = optax.add_decayed_weights(0.3, mask=decay_mask)
    adapt = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=1e-3), decay_mask)
    rate = optax.scale_by_learning_rate(schedule)
    plain = {
        "lars": optax.chain(decay, adapt, optax.trace(0.9), rate),
        "sgd": optax.chain(decay, optax.trace(0.9), rate),
        "adamw": optax.adamw(schedule, b1=0.9, weight_decay=0.3, mask=decay_mask),
    }
    for name, expected in plain.items():
        actual = create_optimizer(OptimizerOptions(name, weight_decay=0.3), schedule)
        states = [jax.eval_shape(optimizer.init, PARAMS) for optimizer in (actual, expected)]
        assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
        jax.tree.map(np.testing.assert_array_equal, train(actual), train(expected))


def test_clipped_trust_ratio_is_bounded_by_the_learning_rate():
    # 0.05 |w| / |g| = 0.1 replaces every larger learning rate; with a smaller one it is plain gradient descent.
    params, gradients = {"kernel": jnp.full((2, 2), 2.0)}, {"kernel": jnp.full((2, 2), 1.0)}
    steps = []
    for rate in (10.0, 0.2, 0.05):
        optimizer = create_optimizer(
            OptimizerOptions("lars", weight_decay=0.0, trust_coefficient=0.05, clip_trust_ratio=True), rate
        )
        steps.append(optimizer.update(gradients, optimizer.init(params), params)[0]["kernel"])
    np.testing.assert_allclose(steps, np.reshape([-0.1, -0.1, -0.05], (3, 1, 1)) * np.ones((3, 2, 2)), rtol=1e-6)


def test_norms_of_sharded_parameters_are_global_with_the_clip():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(8, 4)) * np.arange(1, 9)[:, None], jnp.float32)
    gradient = jnp.asarray(rng.normal(size=(8, 4)), jnp.float32)
    optimizer = create_optimizer(OptimizerOptions("lars", weight_decay=0.1, clip_trust_ratio=True), 0.5)
    update = jax.jit(lambda gradient, kernel: optimizer.update(gradient, optimizer.init(kernel), kernel)[0])
    sharding = jax.NamedSharding(mesh, jax.P("fsdp"))
    actual = update(*jax.device_put((gradient, kernel), sharding))
    assert actual.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_allclose(actual, update(gradient, kernel), rtol=1e-5)


def test_predictor_keeps_its_rate_through_warmup_and_cosine():
    cosine = warmup_cosine(0.05, 512, steps_per_epoch=2, warmup_epochs=1, epochs=2)
    optimizer = create_optimizer(
        OptimizerOptions("sgd", weight_decay=0.0, momentum=0.0), cosine, constant_predictor_lr=0.1
    )
    ones = {"backbone": jnp.ones((2, 2)), "projector": jnp.ones(2), "predictor": jnp.ones((2, 2))}
    state, steps = optimizer.init(ones), []
    for _ in range(4):
        updates, state = optimizer.update(ones, state, ones)
        steps.append([float(-updates[name].ravel()[0]) for name in ones])
    expected = [[rate, rate, 0.1] for rate in (0, 0.05, 0.1, (0.1 + 0.0001) / 2)]
    np.testing.assert_allclose(steps, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam"])
@pytest.mark.parametrize("option", ["clip_trust_ratio", "lr_in_momentum"])
def test_options_of_lars_are_refused_for_the_others(name, option):
    with pytest.raises(ValueError, match=f"^{option} must be False for {name}, as only lars has it; got True$"):
        OptimizerOptions(name, **{option: True})


def test_constant_predictor_lr_is_refused_with_the_clip():
    options = OptimizerOptions("lars", clip_trust_ratio=True)
    with pytest.raises(ValueError, match=r"^constant_predictor_lr must be None with clip_trust_ratio; got 0\.1$"):
        create_optimizer(options, 0.1, constant_predictor_lr=0.1)


def test_constant_predictor_lr_is_refused_without_a_predictor():
    optimizer = create_optimizer(OptimizerOptions("sgd", weight_decay=0.0), 0.1, constant_predictor_lr=0.1)
    with pytest.raises(ValueError, match=r"^constant_predictor_lr must be None .*; got parts backbone, projector$"):
        optimizer.init({"backbone": jnp.ones(2), "projector": jnp.ones(2)})
