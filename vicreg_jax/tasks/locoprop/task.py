"""The task `locoprop`: trains an autoencoder by local losses, or by backpropagation, and shows what it has become."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict
from rich.console import Console

from vicreg_jax.config.fields import to_json
from vicreg_jax.locoprop.step import LocoProp
from vicreg_jax.locoprop.survey import Layer
from vicreg_jax.models import count_parameters
from vicreg_jax.runtime.preemption import Preemption
from vicreg_jax.runtime.processes import is_first
from vicreg_jax.runtime.workdir import held_workdir, write_config
from vicreg_jax.tasks.locoprop.assessment import Assessment
from vicreg_jax.tasks.locoprop.build import LocoPropExperiment, build, rows_of
from vicreg_jax.tasks.locoprop.report import write_locoprop_report
from vicreg_jax.tasks.results import finish, shows_finished_run, summarize
from vicreg_jax.tasks.run import train_and_assess
from vicreg_jax.tasks.splits import unreadable_images
from vicreg_jax.training.memory import explained_device_errors
from vicreg_jax.training.metrics import read_metrics
from vicreg_jax.training.step import Batch, Metrics

_SHOWN = ("loss", "train_loss", "test_loss", "learning_rate", "images_per_second")
_MEMORY_REMEDY = "A smaller config.train.batch_size, narrower config.model.widths or config.mesh.fsdp make it less"


def locoprop_task(config: ConfigDict, workdir: Path) -> None:
    """Runs, or goes on with, the run of `config` in `workdir`, to its end.

    Raises:
      InputError: something given cannot be used; nothing has been compiled.
      TrainingError: the run cannot go on, see `vicreg_jax.training.loop.train`.
      Preempted, Interrupted: on SIGTERM and SIGINT, when the state is saved.
    """
    started = time.perf_counter()
    with Preemption() as preemption, held_workdir(workdir, config), explained_device_errors(_MEMORY_REMEDY):
        _run(build(config), workdir, preemption, started)


def _run(experiment: LocoPropExperiment, workdir: Path, preemption: Preemption, started: float) -> None:
    config, data = experiment.config, experiment.train_data
    console = Console(quiet=not is_first(), highlight=False)
    if shows_finished_run(console, config, workdir):
        return
    if is_first():
        write_config(workdir, config)

    rows = jnp.zeros((config.train.batch_size, data.canvas**2 * data.channels))
    layers = experiment.training.layers((rows, rows)) if isinstance(experiment.training, LocoProp) else []

    def initialize(key: Array) -> Any:
        return experiment.training.init(key, (rows, rows))

    def train_step(state: Any, batch: Batch) -> tuple[Any, Metrics]:
        images = rows_of(batch["image"])
        return experiment.training.step(state, (images, images))

    assessment = Assessment(experiment)
    trained = train_and_assess(
        experiment,
        workdir=workdir,
        console=console,
        preemption=preemption,
        started=started,
        name=experiment.method,
        initialize=initialize,
        train_step=train_step,
        terms=(),
        shown=_SHOWN,
        describe=partial(_describe, console, config, layers),
        warn=lambda row: None,
        evaluate=lambda state: assessment.losses(state.params),
        assess=lambda state, initial: assessment.assess(state.params, initial.params),
    )
    results, neighbors, reconstructions = trained.assessed
    unreadable = unreadable_images(data, experiment.test_data)
    if is_first():
        metrics = read_metrics(workdir / "metrics.jsonl")
        summary = summarize(
            config,
            experiment.mesh,
            metrics,
            method=experiment.method,
            steps=experiment.plan.total_steps,
            epochs=config.train.epochs,
            seconds=trained.seconds,
            **results,
            unreadable_images=unreadable,
        )
        console.print(
            f"loss {summary['loss']:.2f} on all training images, {summary['test_loss']:.2f} on the test images "
            f"({summary['baselines']['random_init']['loss']:.2f} before training)"
        )
        report = partial(
            write_locoprop_report,
            summary=summary,
            config=to_json(config),
            metrics=metrics,
            layers=layers,
            reconstructions=reconstructions,
            neighbors=neighbors,
            class_names=data.class_names,
        )
        finish(console, workdir, summary, report)


def _describe(console: Console, config: ConfigDict, layers: list[Layer], shapes: Any) -> None:
    widths = (*config.model.widths, config.model.code, *reversed(config.model.widths))
    count = count_parameters({"params": shapes.params})
    console.print(
        f"model   autoencoder {'-'.join(map(str, widths))}, {config.model.transfer}, {count / 1e6:.2f} M parameters"
    )
    if layers:
        local = ", ".join(f"{layer.name} {layer.transfer}" + " (Gram)" * (layer.form == "gram") for layer in layers)
        console.print(f"losses  {local}", soft_wrap=True)
