"""The main job: pretrain an encoder on unlabeled images, then say in numbers and pictures what it learned."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from vicreg_jax.config.fields import to_json
from vicreg_jax.evaluation.diagnostics import MONITORED_ROWS, collapse_monitor, collapse_warning
from vicreg_jax.models import count_parameters
from vicreg_jax.report import ReportContent, write_report
from vicreg_jax.runtime.preemption import Preemption
from vicreg_jax.runtime.processes import is_first
from vicreg_jax.runtime.workdir import held_workdir, write_config
from vicreg_jax.tasks.pretrain.assessment import Assessment
from vicreg_jax.tasks.pretrain.build import Experiment, build
from vicreg_jax.tasks.results import finish, shows_finished_run, summarize
from vicreg_jax.tasks.run import train_and_assess
from vicreg_jax.tasks.splits import unreadable_images
from vicreg_jax.training.memory import explained_device_errors
from vicreg_jax.training.metrics import read_metrics
from vicreg_jax.training.state import TrainState, init_state
from vicreg_jax.training.step import Batch, Metrics, make_train_step


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
    config = experiment.config
    console = Console(quiet=not is_first(), highlight=False)
    if shows_finished_run(console, config, workdir):
        return
    if is_first():
        write_config(workdir, config)

    initialize = partial(
        init_state,
        method=experiment.method,
        optimizer=experiment.optimizer,
        image_shape=experiment.image_shape,
        num_classes=experiment.train_data.num_classes,
    )
    assessment = Assessment(experiment)
    terms = experiment.method.terms
    trained = train_and_assess(
        experiment,
        workdir=workdir,
        console=console,
        preemption=preemption,
        started=started,
        name=config.method.name,
        initialize=initialize,
        train_step=train_step_of(experiment),
        terms=terms,
        shown=("loss", *terms, "learning_rate", "images_per_second"),
        describe=partial(_describe, console, config),
        warn=partial(_warning, experiment),
        evaluate=assessment.knn_accuracy,
        assess=assessment.assess,
    )
    results, pictures = trained.assessed
    skipped_updates = int(trained.state.skipped)
    unreadable = unreadable_images(experiment.train_data, experiment.test_data)
    if is_first():
        metrics = read_metrics(workdir / "metrics.jsonl")
        summary = summarize(
            config,
            experiment.mesh,
            metrics,
            method=config.method.name,
            steps=experiment.plan.total_steps,
            epochs=config.train.epochs,
            seconds=trained.seconds,
            loss=metrics[-1]["loss"],
            **results,
            skipped_updates=skipped_updates,
            unreadable_images=unreadable,
        )
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
        finish(console, workdir, summary, partial(write_report, content=content))


def train_step_of(experiment: Experiment) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The experiment's train step, to be jitted."""
    preprocessing = experiment.preprocessing
    return make_train_step(
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


def _describe(console: Console, config: ConfigDict, shapes: TrainState) -> None:
    counts = {part: count_parameters({"params": params}) for part, params in shapes.params.items()}
    console.print(
        f"model   {config.model.name}: "
        + ", ".join(f"{part} {count / 1e6:.2f} M parameters" for part, count in counts.items())
        + f", {config.train.precision}"
    )
