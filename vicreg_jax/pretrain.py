"""The main job: pretrain an encoder on unlabelled images, then say in numbers and pictures what it learned."""

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from vicreg_jax.assessment import Assessment
from vicreg_jax.config import to_json
from vicreg_jax.data import is_resident, train_batches
from vicreg_jax.errors import TrainingError
from vicreg_jax.evaluation.diagnostics import MONITORED_ROWS, collapse_monitor, collapse_warning
from vicreg_jax.evaluation.report import ReportContent, write_report
from vicreg_jax.experiment import Experiment, build
from vicreg_jax.experiment_data import saved_facts, take_up, unreadable_images
from vicreg_jax.models import count_parameters
from vicreg_jax.processes import is_first
from vicreg_jax.results import show_results, shows_finished_run
from vicreg_jax.training.checkpoint import Checkpoints
from vicreg_jax.training.loop import train
from vicreg_jax.training.memory import explained_device_errors, memory_needed
from vicreg_jax.training.mesh import batch_sharding, state_shardings
from vicreg_jax.training.metrics import MetricsWriter, read_metrics
from vicreg_jax.training.preemption import Preemption
from vicreg_jax.training.progress import RunProgress
from vicreg_jax.training.state import init_state
from vicreg_jax.training.step import compile_train_step, make_train_step
from vicreg_jax.workdir import held_workdir, write_config, write_json


def pretrain(config: ConfigDict, workdir: Path) -> None:
    """Runs, or goes on with, the pretraining run of `config` in `workdir`, to its end.

    Raises:
      InputError: something given cannot be used; nothing has been compiled.
      TrainingError: the run cannot go on, see `vicreg_jax.training.loop.train`.
      Preempted, Interrupted: on SIGTERM and SIGINT, when the state is saved; the first also where another process died.
    """
    started = time.perf_counter()
    with Preemption() as preemption, held_workdir(workdir, config), explained_device_errors():
        _pretrain(build(config), workdir, preemption, started)


def _pretrain(experiment: Experiment, workdir: Path, preemption: Preemption, started: float) -> None:
    config, plan = experiment.config, experiment.plan
    console = Console(quiet=not is_first(), highlight=False)
    if shows_finished_run(console, config, workdir):
        return
    if is_first():
        write_config(workdir, config)

    initialise = partial(
        init_state,
        method=experiment.method,
        optimizer=experiment.optimizer,
        image_shape=experiment.image_shape,
        num_classes=experiment.train_data.num_classes,
    )
    shapes = jax.eval_shape(initialise, jax.random.key(config.seed))
    shardings = state_shardings(experiment.mesh, shapes)
    # The key is made inside: one that spans processes cannot be handed over.
    from_seed = jax.jit(lambda seed: initialise(jax.random.key(seed)), out_shardings=shardings)
    initial_state = partial(from_seed, np.uint32(config.seed))
    _describe(console, experiment, shapes)

    with Checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as checkpoints:
        start_step, seconds_before = 0, 0.0
        restored = checkpoints.restore(shapes, shardings, partial(console.print, style="bold yellow", soft_wrap=True))
        if restored is None:
            state = initial_state()
        else:
            start_step, state, saved = restored
            seconds_before = take_up(config, experiment.train_data, saved)
            console.print(f"going on from the checkpoint of step {start_step}")

        def seconds() -> float:
            return seconds_before + time.perf_counter() - started

        batches = train_batches(
            experiment.train_data,
            batch_size=config.train.batch_size,
            seed=config.seed,
            start_step=start_step,
            sharding=batch_sharding(experiment.mesh),
            resident=is_resident(experiment.train_data, config.data.placement),
            workers=config.data.workers,
        )
        train_step = compile_experiment(experiment, shapes, shardings)
        memory, fits = memory_needed(train_step, _resident_bytes(experiment))
        console.print(f"memory  {memory}", style=None if fits else "bold yellow", soft_wrap=True)
        console.print(f"first step after {time.perf_counter() - started:.1f} s")
        assessment = Assessment(experiment)
        terms = experiment.method.terms
        shown = ("loss", *terms, "learning_rate", "images_per_second")
        with (
            MetricsWriter(workdir, start_step=start_step, tensorboard=config.logging.tensorboard) as writer,
            RunProgress(console, start_step=start_step, total_steps=plan.total_steps, shown=shown) as progress,
        ):
            state = train(
                state,
                plan=plan,
                terms=terms,
                train_step=train_step,
                batches=batches,
                checkpoints=checkpoints,
                writer=writer,
                progress=progress,
                preemption=preemption,
                evaluate=assessment.knn_accuracy,
                warn=partial(_warning, experiment),
                seconds=seconds,
                record=lambda: saved_facts(experiment.train_data, seconds()),
            )
        # The last checkpoint is written meanwhile.
        with console.status("evaluating"):
            results, pictures = assessment.assess(state, initial_state())

    skipped_updates = int(state.skipped)
    unreadable = unreadable_images(experiment.train_data, experiment.test_data)
    if is_first():
        metrics = read_metrics(workdir / "metrics.jsonl")
        summary = _summary(experiment, metrics, results, seconds())
        summary |= {"skipped_updates": skipped_updates, "unreadable_images": unreadable}
        warning = _warning(experiment, metrics[-1])
        content = ReportContent(
            title=f"{config.method.name} on {config.data.name}",
            summary=summary,
            config=to_json(config),
            metrics=metrics,
            class_names=experiment.train_data.class_names,
            warnings=[] if warning is None else [warning],
            healthy_std=_healthy_std(experiment),
            **pictures,
        )
        try:
            write_report(workdir / "report.html", content)
        except OSError as error:
            raise TrainingError(f"{workdir / 'report.html'} cannot be written: {error}; stopped") from error
        write_json(workdir / "summary.json", summary)
        show_results(console, summary, workdir)


def _resident_bytes(experiment: Experiment) -> int:
    splits = experiment.train_data, experiment.test_data
    placement = experiment.config.data.placement
    return sum(data.decoded_bytes for data in splits if is_resident(data, placement))


def _summary(
    experiment: Experiment, metrics: list[dict[str, Any]], results: dict[str, Any], seconds: float
) -> dict[str, Any]:
    config = experiment.config
    return {
        "method": config.method.name,
        "dataset": config.data.name,
        "steps": experiment.plan.total_steps,
        "epochs": config.train.epochs,
        "seconds": round(seconds, 2),
        "images_per_second": statistics.median(row["images_per_second"] for row in metrics),
        "loss": metrics[-1]["loss"],
        "devices": f"{experiment.mesh.size} x {_device_kind(experiment)}",
        **results,
        "evaluation": to_json(config)["evaluation"],
    }


def compile_experiment(experiment: Experiment, shapes: Any, shardings: Any) -> jax.stages.Compiled:
    """The experiment's train step for a state of these shapes that lives there, compiled."""
    preprocessing, data = experiment.preprocessing, experiment.train_data
    train_step = make_train_step(
        method=experiment.method,
        optimizer=experiment.optimizer,
        schedule=experiment.schedule,
        views=experiment.views,
        image_size=preprocessing.image_size,
        mean=preprocessing.mean,
        std=preprocessing.std,
        monitor=collapse_monitor,
        is_logged=experiment.plan.is_logged,
        total_steps=experiment.plan.total_steps,
        mesh=experiment.mesh,
        skip_nonfinite=experiment.config.train.on_nonfinite == "skip",
    )
    return compile_train_step(
        train_step,
        mesh=experiment.mesh,
        state=shapes,
        shardings=shardings,
        batch_size=experiment.plan.batch_size,
        canvas=data.canvas,
        channels=data.channels,
    )


def _warning(experiment: Experiment, row: dict[str, Any]) -> str | None:
    # While the learning rate still rises the embeddings are those of a random network.
    if row["epoch"] <= experiment.config.optim.warmup_epochs or row["effective_rank"] is None:
        return None
    return collapse_warning(
        row["embedding_std"],
        row["effective_rank"],
        dim=experiment.config.model.head_dims[-1],
        batch_size=min(experiment.plan.batch_size, MONITORED_ROWS),
        target_std=_healthy_std(experiment),
    )


def _healthy_std(experiment: Experiment) -> float:
    return experiment.method.embedding_scale(experiment.config.model.head_dims[-1])


def _describe(console: Console, experiment: Experiment, shapes: Any) -> None:
    config, plan, mesh = experiment.config, experiment.plan, experiment.mesh
    console.print(
        f"devices {mesh.size} x {_device_kind(experiment)}, mesh data={mesh.shape['data']} fsdp={mesh.shape['fsdp']}, "
        f"{jax.process_count()} process(es)"
    )
    train, test = experiment.train_data, experiment.test_data
    labels = f"{train.num_classes} classes" if train.num_classes is not None else "no labels"
    place = "on the devices" if is_resident(train, config.data.placement) else "streamed"
    console.print(
        f"data    {config.data.name}: {len(train)} training and {len(test)} test images, "
        f"{train.canvas}x{train.canvas}x{train.channels}, {labels}, {place}"
    )
    counts = {part: count_parameters({"params": params}) for part, params in shapes.params.items()}
    console.print(
        f"model   {config.model.name}: "
        + ", ".join(f"{part} {count / 1e6:.2f} M parameters" for part, count in counts.items())
        + f", {config.train.precision}"
    )
    console.print(
        f"run     {config.method.name}: {plan.total_steps} steps of {plan.batch_size} images, "
        f"{config.train.epochs} epochs of {plan.steps_per_epoch} steps"
    )


def _device_kind(experiment: Experiment) -> str:
    return experiment.mesh.devices.flat[0].device_kind
