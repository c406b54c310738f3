"""The task `locoprop`: trains an autoencoder by local losses, or by backpropagation, and shows what it has become."""

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict
from rich.console import Console

from vicreg_jax.config import to_json
from vicreg_jax.data import is_resident, train_batches
from vicreg_jax.errors import TrainingError
from vicreg_jax.experiment_data import saved_facts, take_up, unreadable_images
from vicreg_jax.locoprop.assessment import Assessment
from vicreg_jax.locoprop.experiment import LocoPropExperiment, build, rows_of
from vicreg_jax.locoprop.report import write_locoprop_report
from vicreg_jax.locoprop.step import LocoProp
from vicreg_jax.locoprop.survey import Layer
from vicreg_jax.models import count_parameters
from vicreg_jax.processes import is_first
from vicreg_jax.results import show_results, shows_finished_run
from vicreg_jax.training.checkpoint import Checkpoints
from vicreg_jax.training.loop import train
from vicreg_jax.training.memory import explained_device_errors, memory_needed
from vicreg_jax.training.mesh import state_shardings
from vicreg_jax.training.metrics import MetricsWriter, read_metrics
from vicreg_jax.training.preemption import Preemption
from vicreg_jax.training.progress import RunProgress
from vicreg_jax.training.step import compile_train_step
from vicreg_jax.workdir import held_workdir, write_config, write_json

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
    config, plan, data = experiment.config, experiment.plan, experiment.train_data
    console = Console(quiet=not is_first(), highlight=False)
    if shows_finished_run(console, config, workdir):
        return
    if is_first():
        write_config(workdir, config)

    rows = jnp.zeros((config.train.batch_size, data.canvas**2 * data.channels))
    layers = experiment.training.layers((rows, rows)) if isinstance(experiment.training, LocoProp) else []

    def initialise(seed: Array) -> Any:
        return experiment.training.init(jax.random.key(seed), (rows, rows))

    def train_step(state: Any, batch: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
        images = rows_of(batch["image"])
        return experiment.training.step(state, (images, images))

    seed = np.uint32(config.seed)
    shapes = jax.eval_shape(initialise, seed)
    shardings = state_shardings(experiment.mesh, shapes)
    initial_state = partial(jax.jit(initialise, out_shardings=shardings), seed)
    _describe(console, experiment, layers, shapes)

    with Checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as checkpoints:
        start_step, seconds_before = 0, 0.0
        restored = checkpoints.restore(shapes, shardings, partial(console.print, style="bold yellow", soft_wrap=True))
        if restored is None:
            state = initial_state()
        else:
            start_step, state, saved = restored
            seconds_before = take_up(config, data, saved)
            console.print(f"going on from the checkpoint of step {start_step}")

        def seconds() -> float:
            return seconds_before + time.perf_counter() - started

        batches = train_batches(
            data,
            batch_size=config.train.batch_size,
            seed=config.seed,
            start_step=start_step,
            sharding=experiment.sharding,
            resident=is_resident(data, config.data.placement),
            workers=config.data.workers,
        )
        compiled = compile_train_step(
            train_step,
            mesh=experiment.mesh,
            state=shapes,
            shardings=shardings,
            batch_size=config.train.batch_size,
            canvas=data.canvas,
            channels=data.channels,
        )
        resident = [split for split in (data, experiment.test_data) if is_resident(split, config.data.placement)]
        memory, fits = memory_needed(compiled, sum(split.decoded_bytes for split in resident))
        console.print(f"memory  {memory}", style=None if fits else "bold yellow", soft_wrap=True)
        console.print(f"first step after {time.perf_counter() - started:.1f} s")
        assessment = Assessment(experiment)
        with (
            MetricsWriter(workdir, start_step=start_step, tensorboard=config.logging.tensorboard) as writer,
            RunProgress(console, start_step=start_step, total_steps=plan.total_steps, shown=_SHOWN) as progress,
        ):
            state = train(
                state,
                plan=plan,
                terms=(),
                train_step=compiled,
                batches=batches,
                checkpoints=checkpoints,
                writer=writer,
                progress=progress,
                preemption=preemption,
                evaluate=lambda state: assessment.losses(state.params),
                warn=lambda row: None,
                seconds=seconds,
                record=lambda: saved_facts(data, seconds()),
            )
        # The last checkpoint is written meanwhile.
        with console.status("evaluating"):
            results, neighbours, reconstructions = assessment.assess(state.params, initial_state().params)

    unreadable = unreadable_images(data, experiment.test_data)
    if is_first():
        metrics = read_metrics(workdir / "metrics.jsonl")
        summary = {
            "method": experiment.method,
            "dataset": config.data.name,
            "steps": plan.total_steps,
            "epochs": config.train.epochs,
            "seconds": round(seconds(), 2),
            "images_per_second": statistics.median(row["images_per_second"] for row in metrics),
            "devices": f"{experiment.mesh.size} x {experiment.mesh.devices.flat[0].device_kind}",
            **results,
            "unreadable_images": unreadable,
            "evaluation": to_json(config)["evaluation"],
        }
        try:
            write_locoprop_report(
                workdir / "report.html",
                summary=summary,
                config=to_json(config),
                metrics=metrics,
                layers=layers,
                reconstructions=reconstructions,
                neighbours=neighbours,
                class_names=data.class_names,
            )
        except OSError as error:
            raise TrainingError(f"{workdir / 'report.html'} cannot be written: {error}; stopped") from error
        write_json(workdir / "summary.json", summary)
        console.print(
            f"loss {summary['loss']:.2f} on all training images, {summary['test_loss']:.2f} on the test images "
            f"({summary['baselines']['random_init']['loss']:.2f} before training)"
        )
        show_results(console, summary, workdir)


def _describe(console: Console, experiment: LocoPropExperiment, layers: list[Layer], shapes: Any) -> None:
    config, plan, mesh = experiment.config, experiment.plan, experiment.mesh
    train_data, test_data = experiment.train_data, experiment.test_data
    console.print(
        f"devices {mesh.size} x {mesh.devices.flat[0].device_kind}, mesh data={mesh.shape['data']} "
        f"fsdp={mesh.shape['fsdp']}, {jax.process_count()} process(es)"
    )
    place = "on the devices" if is_resident(train_data, config.data.placement) else "streamed"
    console.print(
        f"data    {config.data.name}: {len(train_data)} training and {len(test_data)} test images, "
        f"{train_data.canvas}x{train_data.canvas}x{train_data.channels}, {place}"
    )
    widths = (*config.model.widths, config.model.code, *reversed(config.model.widths))
    count = count_parameters({"params": shapes.params})
    console.print(
        f"model   autoencoder {'-'.join(map(str, widths))}, {config.model.transfer}, {count / 1e6:.2f} M parameters"
    )
    if layers:
        local = ", ".join(f"{layer.name} {layer.transfer}" + " (Gram)" * (layer.form == "gram") for layer in layers)
        console.print(f"losses  {local}", soft_wrap=True)
    console.print(
        f"run     {experiment.method}: {plan.total_steps} steps of {plan.batch_size} images, "
        f"{config.train.epochs} epochs of {plan.steps_per_epoch} steps"
    )
