"""A run that trains: from its start, or its last checkpoint, to its end and what was learned."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from vicreg_jax.data import Dataset, is_resident, train_batches
from vicreg_jax.runtime.preemption import Preemption
from vicreg_jax.tasks.splits import saved_facts, take_up
from vicreg_jax.training.checkpoint import Checkpoints
from vicreg_jax.training.loop import Plan, train
from vicreg_jax.training.memory import memory_needed
from vicreg_jax.training.mesh import batch_sharding, state_shardings
from vicreg_jax.training.metrics import MetricsWriter
from vicreg_jax.training.progress import RunProgress
from vicreg_jax.training.step import Batch, Metrics, compile_train_step


@dataclass(frozen=True)
class TrainableExperiment:
    """A config, checked, and what every run that trains has of it; the data sets are open, nothing is compiled."""

    config: ConfigDict
    mesh: Mesh
    train_data: Dataset
    test_data: Dataset
    plan: Plan


class Trained(NamedTuple):
    """The state after the last step, what `assess` found of it, and the whole run's seconds, interruptions apart."""

    state: Any
    assessed: Any
    seconds: float


def train_and_assess(
    experiment: TrainableExperiment,
    *,
    workdir: Path,
    console: Console,
    preemption: Preemption,
    started: float,
    name: str,
    initialize: Callable[[Array], Any],
    train_step: Callable[[Any, Batch], tuple[Any, Metrics]],
    terms: tuple[str, ...],
    shown: tuple[str, ...],
    describe: Callable[[Any], None],
    warn: Callable[[dict[str, Any]], str | None],
    evaluate: Callable[[Any], dict[str, float]],
    assess: Callable[[Any, Any], Any],
) -> Trained:
    """Trains, or goes on, to the last step, and evaluates.

    Args:
      experiment: what is trained, on what, and how long.
      workdir: where checkpoints and metrics go.
      console: where a person is told.
      preemption: whether the run is asked to leave.
      started: when, by `time.perf_counter`.
      name: of the method, for a person.
      initialize: key -> state; traced.
      train_step: `(state, batch) -> (state, metrics)`, not yet jitted.
      terms: the method's loss terms, as its metrics name them.
      shown: metrics of the progress line.
      describe: told the state's shapes; prints what the model is.
      warn: a logged row -> a warning for the person, or None.
      evaluate: state -> metrics, while training. All processes call it together, and `assess`.
      assess: (the trained state, the one before the first step) -> all that is said of it at the end.

    Raises:
      InputError: where the data are others than those of the checkpoint.
      TrainingError, Preempted, Interrupted: see `vicreg_jax.training.loop.train`.
    """
    config, mesh, train_data = experiment.config, experiment.mesh, experiment.train_data
    shapes = jax.eval_shape(initialize, jax.random.key(config.seed))
    shardings = state_shardings(mesh, shapes)
    # The key is made inside: one that spans processes cannot be handed over.
    from_seed = jax.jit(lambda seed: initialize(jax.random.key(seed)), out_shardings=shardings)
    initial_state = partial(from_seed, np.uint32(config.seed))
    _describe_data(console, experiment)
    describe(shapes)
    plan = experiment.plan
    console.print(
        f"run     {name}: {plan.total_steps} steps of {plan.batch_size} images, "
        f"{config.train.epochs} epochs of {plan.steps_per_epoch} steps"
    )

    with Checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as checkpoints:
        start_step, seconds_before = 0, 0.0
        restored = checkpoints.restore(shapes, shardings, partial(console.print, style="bold yellow", soft_wrap=True))
        if restored is None:
            state = initial_state()
        else:
            start_step, state, saved = restored
            seconds_before = take_up(config, train_data, saved)
            console.print(f"going on from the checkpoint of step {start_step}")

        def seconds() -> float:
            return seconds_before + time.perf_counter() - started

        batches = train_batches(
            train_data,
            batch_size=plan.batch_size,
            seed=config.seed,
            start_step=start_step,
            sharding=batch_sharding(mesh),
            resident=is_resident(train_data, config.data.placement),
            workers=config.data.workers,
        )
        compiled = compile_step(experiment, train_step, shapes, shardings)
        memory, fits = memory_needed(compiled, _resident_bytes(experiment))
        console.print(f"memory  {memory}", style=None if fits else "bold yellow", soft_wrap=True)
        console.print(f"first step after {time.perf_counter() - started:.1f} s")
        with (
            MetricsWriter(workdir, start_step=start_step, tensorboard=config.logging.tensorboard) as writer,
            RunProgress(console, start_step=start_step, total_steps=plan.total_steps, shown=shown) as progress,
        ):
            state = train(
                state,
                plan=plan,
                terms=terms,
                train_step=compiled,
                batches=batches,
                checkpoints=checkpoints,
                writer=writer,
                progress=progress,
                preemption=preemption,
                evaluate=evaluate,
                warn=warn,
                seconds=seconds,
                record=lambda: saved_facts(train_data, seconds()),
            )
        # The last checkpoint is written meanwhile.
        with console.status("evaluating"):
            assessed = assess(state, initial_state())
    return Trained(state, assessed, seconds())


def _describe_data(console: Console, experiment: TrainableExperiment) -> None:
    mesh, train_data, test_data = experiment.mesh, experiment.train_data, experiment.test_data
    console.print(
        f"devices {mesh.size} x {mesh.devices.flat[0].device_kind}, mesh data={mesh.shape['data']} "
        f"fsdp={mesh.shape['fsdp']}, {jax.process_count()} process(es)"
    )
    labels = f"{train_data.num_classes} classes" if train_data.num_classes is not None else "no labels"
    place = "on the devices" if is_resident(train_data, experiment.config.data.placement) else "streamed"
    console.print(
        f"data    {experiment.config.data.name}: {len(train_data)} training and {len(test_data)} test images, "
        f"{train_data.canvas}x{train_data.canvas}x{train_data.channels}, {labels}, {place}"
    )


def compile_step(
    experiment: TrainableExperiment,
    train_step: Callable[[Any, Batch], tuple[Any, Metrics]],
    shapes: Any,
    shardings: Any,
) -> jax.stages.Compiled:
    """The step for batches of the experiment's images and a state of these shapes that lives there, compiled."""
    return compile_train_step(
        train_step,
        mesh=experiment.mesh,
        state=shapes,
        shardings=shardings,
        batch_size=experiment.plan.batch_size,
        canvas=experiment.train_data.canvas,
        channels=experiment.train_data.channels,
    )


def _resident_bytes(experiment: TrainableExperiment) -> int:
    splits = experiment.train_data, experiment.test_data
    placement = experiment.config.data.placement
    return sum(data.decoded_bytes for data in splits if is_resident(data, placement))
