"""One update, as a pure function: views, loss, gradient, optimizer, metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vicreg_jax.augment import Preprocessing, View, make_views
from vicreg_jax.data import Batch
from vicreg_jax.methods import JointEmbedding
from vicreg_jax.training import online_probe
from vicreg_jax.training.mesh import batch_sharding, replicated
from vicreg_jax.training.plan import Plan
from vicreg_jax.training.state import TrainState, step_key

Metrics = dict[str, jax.Array]


@dataclass(frozen=True, eq=False)  # jit tells instances apart by identity
class TrainStep:
    """`train_step(state, batch) -> (state, metrics)`, to be jitted over global arrays with the state donated.

    Attributes:
        method: turns views into a loss.
        optimizer: its updates include the learning rate.
        schedule: the learning rate by step, for the metrics.
        views: how each view is drawn, the global ones first.
        preprocessing: size and normalization of the views.
        monitor: embeddings `[batch, dim]` -> small arrays by name. Evaluated at logged steps only, zeros elsewhere.
        plan: says which steps are logged, and how many there are, over which a method stretches its own schedules.
        mesh: its devices split the batch; with it the views are the same bits on any number of devices.
        skip_nonfinite: skip an update whose loss, gradient or size is not finite: only the step counts, and
            `skipped_updates` of the metrics. The batch and its place in the schedule are used up.
    """

    method: JointEmbedding
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    views: tuple[View, ...]
    preprocessing: Preprocessing
    monitor: Callable[[jax.Array], Metrics]
    plan: Plan
    mesh: Mesh | None = None
    skip_nonfinite: bool = False

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """The state after one more update, and the metrics of this step by name: scalars, and the monitor's arrays."""
        key = step_key(state.key, state.step)
        with jax.named_scope("augmentation"):
            images, ratios = batch["image"], batch["aspect_ratio"]
            views = make_views(key, images, ratios, self.views, self.preprocessing, mesh=self.mesh)
        # The views have drawn with the numbers below of the step's key.
        method_key = jax.random.fold_in(key, len(self.views))
        gradient_of_loss = jax.value_and_grad(jax.named_scope("loss")(self.method.loss), has_aux=True)
        (loss, outputs), gradient = gradient_of_loss(
            state.params, state.batch_stats, state.extra_state, views, method_key
        )
        with jax.named_scope("optimizer"):
            updates, opt_state = self.optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            norms = {
                "gradient_norm": optax.tree.norm(gradient),
                # As applied. For the norm of `updates` themselves XLA would write them to memory.
                "update_norm": optax.tree.norm(optax.tree.sub(params, state.params)),
            }
        progress = self.plan.progress(state.step)
        extra_state = self.method.after_update(params, outputs.extra_state, progress)

        metrics = {
            "loss": loss,
            **outputs.terms,
            "learning_rate": jnp.asarray(self.schedule(state.step), jnp.float32),
            **norms,
            **self._monitored(outputs.embeddings, state.step + 1),
        }
        probe = state.probe
        if probe is not None:
            with jax.named_scope("probe"):
                probe, metrics["probe_accuracy"] = online_probe.update(probe, outputs.features, batch["label"])
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=outputs.batch_stats,
            extra_state=extra_state,
            opt_state=opt_state,
            probe=probe,
            skipped=state.skipped,
            key=state.key,
        )
        if self.skip_nonfinite:
            watched = jnp.stack([loss, *outputs.terms.values(), *norms.values()])
            new_state = _unless(~jnp.all(jnp.isfinite(watched)), new_state, state)
            metrics["skipped_updates"] = new_state.skipped
        return new_state, metrics

    @jax.named_scope("monitor")
    def _monitored(self, embeddings: jax.Array, step: jax.Array) -> Metrics:
        """The monitor's arrays at logged steps; zeros, which nobody reads, elsewhere."""
        shapes = jax.eval_shape(self.monitor, embeddings)
        return jax.lax.cond(
            self.plan.is_logged(step),
            self.monitor,
            lambda z: jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), shapes),
            jax.lax.stop_gradient(embeddings),
        )


def trace_step(
    step: Callable[[Any, Batch], tuple[Any, Metrics]], *, mesh: Mesh, state: Any, shardings: Any, batch: Any
) -> jax.stages.Traced:
    """Traces a step for a mesh, with the state donated and the batch split over every device.

    Args:
        step: `(state, batch) -> (state, metrics)`.
        mesh: of the state and the batch.
        state: the state's shapes.
        shardings: where the state lives.
        batch: the batch's shapes and dtypes.
    """
    jitted = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )
    return jitted.trace(state, batch)


def _unless(skip: jax.Array, new_state: TrainState, state: TrainState) -> TrainState:
    """The new state; where `skip`, the previous one with the step counted."""

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(skip, old, new)

    def choose_in_optimizer(new: jax.Array, old: jax.Array) -> jax.Array:
        # The optimizer's integers count the steps of the learning rate schedule.
        return new if jnp.issubdtype(new.dtype, jnp.integer) else choose(new, old)

    return jax.tree.map(choose, new_state, state).replace(
        step=new_state.step,
        opt_state=jax.tree.map(choose_in_optimizer, new_state.opt_state, state.opt_state),
        skipped=state.skipped + skip,
    )
