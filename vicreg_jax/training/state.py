"""Everything that a run carries from one step to the next, as one pytree."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vicreg_jax.methods import JointEmbedding, Variables
from vicreg_jax.training import online_probe


@flax.struct.dataclass
class TrainState:
    """The state after `step` updates; together with the config it determines every later step.

    Attributes:
        step: int32 scalar, the number of updates. It is the position in the data as well: batch `step` comes next.
        params: parameters by part, `{'backbone': ..., 'head': ...}` and the method's other parts, float32.
        batch_stats: BatchNorm's running statistics, likewise.
        extra_state: the method's own state (a target network, a queue), by name; empty for most methods.
        opt_state: of the optimizer.
        probe: the online linear probe on the features; None without labels.
        skipped: int32 scalar, the number of updates skipped because they were not finite.
        key: the run's PRNG key as uint32 key data; step `s` draws from `fold_in(key, s)`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    extra_state: dict[str, Any]
    opt_state: Any
    probe: online_probe.Probe | None
    skipped: jax.Array
    key: jax.Array


_IMPLEMENTATION = "threefry2x32"  # not the one that JAX_DEFAULT_PRNG_IMPL names: a run would draw other numbers


def run_key(seed: jax.Array | int) -> jax.Array:
    """The PRNG key of a run, from its seed."""
    return jax.random.key(seed, impl=_IMPLEMENTATION)


def step_key(key: jax.Array, step: jax.Array | int) -> jax.Array:
    """The PRNG key of the step after `step` updates, from the state's key data."""
    return jax.random.fold_in(jax.random.wrap_key_data(key, impl=_IMPLEMENTATION), step)


def replace_weights(method: JointEmbedding, state: TrainState, weights: Mapping[str, Any]) -> TrainState:
    """The state before the first step with other weights by part; see `JointEmbedding.replace_weights`."""
    initial = Variables(state.params, state.batch_stats, state.extra_state)
    return dataclasses.replace(state, **method.replace_weights(initial, weights)._asdict())


def init_state(
    key: jax.Array,
    *,
    method: JointEmbedding,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    num_classes: int | None,
) -> TrainState:
    """The state before the first step. Pure: call it under `jit` with the state's shardings."""
    init_key, train_key = jax.random.split(key)
    view = jnp.zeros((1, *image_shape), jnp.float32)
    params, batch_stats, extra_state = method.init(init_key, (view, view))
    probe = None
    if num_classes is not None:
        probe = online_probe.init(method.backbone.feature_dim, num_classes)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        extra_state=extra_state,
        opt_state=optimizer.init(params),
        probe=probe,
        skipped=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(train_key),
    )


def backbone_of(state: TrainState) -> dict[str, Any]:
    """The variables of the backbone, of arrays or of whatever else is in the place of each."""
    return {"params": state.params["backbone"], "batch_stats": state.batch_stats["backbone"]}
