"""One update, as a pure function: views, loss, gradient, optimizer, metrics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vicreg_jax.augment import View, make_views
from vicreg_jax.methods import JointEmbedding
from vicreg_jax.training import online_probe
from vicreg_jax.training.mesh import batch_sharding, replicated
from vicreg_jax.training.state import TrainState, step_key

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def compile_train_step(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    *,
    mesh: Mesh,
    state: Any,
    shardings: Any,
    batch_size: int,
    canvas: int,
    channels: int,
) -> jax.stages.Compiled:
    """Compiles a step for a mesh, with the state donated and the batch split over every device.

    Args:
      train_step: what `make_train_step` returns.
      mesh: of the state and the batch.
      state, shardings: the state's shapes, and where it lives.
      batch_size, canvas, channels: of the batch, whose images are uint8 `[batch, canvas, canvas, channels]`.
    """
    batch = {
        "image": jax.ShapeDtypeStruct((batch_size, canvas, canvas, channels), jnp.uint8),
        "aspect_ratio": jax.ShapeDtypeStruct((batch_size,), jnp.float32),
        "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    jitted = jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )
    return jitted.lower(state, batch).compile()


def make_train_step(
    *,
    method: JointEmbedding,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    views: tuple[View, View],
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    monitor: Callable[[jax.Array], Metrics],
    is_logged: Callable[[Any], Any],
    total_steps: int,
    mesh: Mesh | None = None,
    skip_nonfinite: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Builds `train_step(state, batch) -> (state, metrics)`, to be jitted over global arrays with the state donated.

    Args:
      method: how views become a loss.
      optimizer: its updates already hold the learning rate.
      schedule: the learning rate by step; for the metrics.
      views, image_size, mean, std: see `vicreg_jax.augment.make_views`.
      monitor: embeddings `[batch, dim]` -> scalars by name. Evaluated at logged steps only, NaN elsewhere.
      is_logged: whether the metrics after that many updates are logged; takes a traced integer.
      total_steps: updates in the whole run, which a method's own schedules are stretched over.
      mesh: over whose devices the batch is split; with it the views are the same bits on any number of devices.
      skip_nonfinite: leave out an update whose loss, gradient or size is not finite, all but its step, and count it
        (`skipped_updates` of the metrics). The batch and its place in the schedule are used up.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = step_key(state.key, state.step)
        images = batch["image"], batch["aspect_ratio"]
        pair = make_views(key, *images, views, image_size=image_size, mean=mean, std=std, mesh=mesh)
        gradient_of_loss = jax.value_and_grad(method.loss, has_aux=True)
        # The views have drawn with numbers 0 and 1 of the step's key.
        method_key = jax.random.fold_in(key, len(views))
        (loss, outputs), gradient = gradient_of_loss(state.params, state.batch_stats, state.carried, pair, method_key)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        carried = method.after_update(params, outputs.carried, state.step / total_steps)

        metrics = {
            "loss": loss,
            **outputs.terms,
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "gradient_norm": optax.tree.norm(gradient),
            "update_norm": optax.tree.norm(updates),
        }
        names = jax.eval_shape(monitor, outputs.embeddings)
        metrics |= jax.lax.cond(
            is_logged(state.step + 1),
            monitor,
            lambda z: jax.tree.map(lambda scalar: jnp.full(scalar.shape, jnp.nan, scalar.dtype), names),
            jax.lax.stop_gradient(outputs.embeddings),
        )
        probe = state.probe
        if probe is not None:
            probe, metrics["probe_accuracy"] = online_probe.update(probe, outputs.features, batch["label"])
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=outputs.batch_stats,
            carried=carried,
            opt_state=opt_state,
            probe=probe,
            skipped=state.skipped,
            key=state.key,
        )
        if skip_nonfinite:
            watched = jnp.stack([loss, *outputs.terms.values(), metrics["gradient_norm"], metrics["update_norm"]])
            new_state = _unless(~jnp.all(jnp.isfinite(watched)), new_state, state)
            metrics["skipped_updates"] = new_state.skipped
        return new_state, metrics

    return train_step


def _unless(skip: jax.Array, new_state: TrainState, state: TrainState) -> TrainState:
    """The new state, or the one before with the step counted."""

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(skip, old, new)

    def choose_in_optimizer(new: jax.Array, old: jax.Array) -> jax.Array:
        # Its integers count steps, by which the learning rate goes.
        return new if jnp.issubdtype(new.dtype, jnp.integer) else choose(new, old)

    return jax.tree.map(choose, new_state, state).replace(
        step=new_state.step,
        opt_state=jax.tree.map(choose_in_optimizer, new_state.opt_state, state.opt_state),
        skipped=state.skipped + skip,
    )
