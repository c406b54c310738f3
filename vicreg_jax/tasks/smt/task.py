"""The task `smt`: fits the transform to a data set, then says in numbers and pictures what its features are worth."""

import collections
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from rich.console import Console

from vicreg_jax.config.fields import to_json
from vicreg_jax.runtime.preemption import Preemption, leave
from vicreg_jax.runtime.processes import Vote, is_first
from vicreg_jax.runtime.workdir import held_workdir, write_config
from vicreg_jax.smt.files import save_smt
from vicreg_jax.smt.fit import FitState, chunks_of, fit_steps, fitted, initial_state, whole
from vicreg_jax.tasks.results import finish, shows_finished_run, summarize
from vicreg_jax.tasks.smt.assessment import assess
from vicreg_jax.tasks.smt.build import SMTExperiment, as_input_error, build
from vicreg_jax.tasks.smt.report import write_smt_report
from vicreg_jax.tasks.splits import saved_facts, take_up, unreadable_images
from vicreg_jax.training.checkpoint import Checkpoints
from vicreg_jax.training.memory import explained_device_errors
from vicreg_jax.training.mesh import state_shardings
from vicreg_jax.training.metrics import MetricsWriter, read_metrics
from vicreg_jax.training.progress import RunProgress

_CHUNKS_AHEAD = 2  # that the host may be ahead of the devices
_SHOWN = ("active_atoms", "empty_patches", "images_per_second")
_MEMORY_REMEDY = "A smaller config.train.batch_size, fewer config.method.atoms or config.mesh.fsdp make it less"


def smt(config: ConfigDict, workdir: Path) -> None:
    """Fits, or goes on fitting, the transform of `config` in `workdir`, and evaluates it.

    Raises:
      InputError: something given cannot be used.
      TrainingError: the run cannot go on: its files cannot be written.
      Preempted, Interrupted: on SIGTERM and SIGINT, when the state is saved.
    """
    started = time.perf_counter()
    with Preemption() as preemption, held_workdir(workdir, config), explained_device_errors(_MEMORY_REMEDY):
        _smt(build(config), workdir, preemption, started)


def _smt(experiment: SMTExperiment, workdir: Path, preemption: Preemption, started: float) -> None:
    config = experiment.config
    console = Console(quiet=not is_first(), highlight=False)
    if shows_finished_run(console, config, workdir):
        return
    if is_first():
        write_config(workdir, config)
    _describe(console, experiment)

    initialize = partial(initial_state, experiment.options, experiment.stream.image_shape)
    shapes = jax.eval_shape(initialize)
    shardings = state_shardings(experiment.mesh, shapes)
    with Checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as checkpoints:
        restored = checkpoints.restore(shapes, shardings, partial(console.print, style="bold yellow", soft_wrap=True))
        seconds_before = 0.0
        if restored is None:
            state = jax.jit(initialize, out_shardings=shardings)()
        else:
            start_step, state, saved = restored
            seconds_before = take_up(config, experiment.train_data, saved)
            console.print(f"going on from the checkpoint of chunk {start_step}")
        seconds = lambda: seconds_before + time.perf_counter() - started  # noqa: E731
        state = _fit(experiment, state, shardings, workdir, checkpoints, preemption, console, seconds)
        # The last checkpoint is written meanwhile.
        with console.status("evaluating"):
            transform = fitted(whole(state, experiment.mesh), experiment.options, experiment.stream.image_shape)
            results, neighbors = assess(experiment, transform)

    unreadable = unreadable_images(experiment.train_data, experiment.test_data)
    if is_first():
        metrics = read_metrics(workdir / "metrics.jsonl")
        last = metrics[-1]
        rows, columns = experiment.options.patch_grid(experiment.stream.image_shape)
        summary = summarize(
            config,
            experiment.mesh,
            metrics,
            method="smt",
            steps=2 * chunks_of(experiment.stream),
            epochs=2,
            seconds=seconds(),
            loss=float(jnp.sum(transform.eigenvalues)),
            atoms=experiment.options.atoms,
            embedding_dim=experiment.options.embedding_dim,
            patches=experiment.stream.count * experiment.options.variants * rows * columns,
            active_atoms=last["active_atoms"],
            empty_patches=last["empty_patches"],
            **results,
            unreadable_images=unreadable,
        )
        save_smt(workdir, transform)
        report = partial(
            write_smt_report,
            smt=transform,
            summary=summary,
            config=to_json(config),
            metrics=metrics,
            neighbors=neighbors,
            class_names=experiment.train_data.class_names,
        )
        finish(console, workdir, summary, report)


def _fit(
    experiment: SMTExperiment,
    state: FitState,
    shardings: FitState,
    workdir: Path,
    checkpoints: Checkpoints,
    preemption: Preemption,
    console: Console,
    seconds: Callable[[], float],
) -> FitState:
    """Sees the chunks that are left, saving and logging as the config says."""
    config, step = experiment.config, int(state.step)
    chunks = chunks_of(experiment.stream)
    unread: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
    read_at, read_step = time.perf_counter(), step
    saved_at = time.monotonic()
    vote = Vote()
    steps = fit_steps(experiment.stream, experiment.options, jax.random.key(config.seed), state, shardings)
    with (
        MetricsWriter(workdir, start_step=step, tensorboard=config.logging.tensorboard) as writer,
        RunProgress(console, start_step=step, total_steps=2 * chunks, shown=_SHOWN) as progress,
        preemption.deferred(),
    ):

        def read(all_but: int) -> None:
            # Waits for the devices, until at most so many chunks are left that were not read.
            nonlocal read_at, read_step
            while len(unread) > all_but:
                s, counted = unread.popleft()
                numbers = {name: value.item() for name, value in jax.device_get(counted).items()}
                if not is_logged(s):
                    continue
                now = time.perf_counter()
                images_per_second = (s - read_step) * experiment.stream.chunk_size / (now - read_at)
                read_at, read_step = now, s
                row: dict[str, Any] = {"step": s, "epoch": round(s / chunks, 4)}
                if s > chunks:
                    row["active_atoms"] = round(numbers["active"] / numbers["patches"], 4)
                    row["empty_patches"] = round(numbers["empty"] / numbers["patches"], 6)
                row |= {"images_per_second": round(images_per_second, 2), "seconds": round(seconds(), 3)}
                writer.write(row)
                progress.update(row)

        def is_logged(step: int) -> bool:
            return step % config.logging.every_steps == 0 or step == 2 * chunks

        while step < 2 * chunks:
            if step == chunks - 1:
                progress.message("choosing the dictionary")
            elif step == 2 * chunks - 1:
                progress.message(f"solving the eigenproblem of {experiment.options.atoms} atoms")
            try:
                state, counted = next(steps)
            except ValueError as error:
                raise as_input_error(error) from error
            step += 1
            unread.append((step, counted))
            progress.advance(step)
            read(all_but=0 if is_logged(step) else _CHUNKS_AHEAD)
            is_due = is_first() and 0 < 60 * config.checkpoint.every_minutes <= time.monotonic() - saved_at
            decision = vote.cast(preemption.received or int(is_due))
            if decision or step % config.checkpoint.every_steps == 0 or step % chunks == 0:
                read(all_but=0)
                writer.sync()
                checkpoints.save(step, state, saved_facts(experiment.train_data, seconds()))
                saved_at = time.monotonic()
            if decision > 1 and step < 2 * chunks:
                leave(decision, f"asked to leave: chunk {step} is saved; the same command goes on from there")
    return state


def _describe(console: Console, experiment: SMTExperiment) -> None:
    mesh, options, stream = experiment.mesh, experiment.options, experiment.stream
    console.print(
        f"devices {mesh.size} x {mesh.devices.flat[0].device_kind}, mesh data={mesh.shape['data']} "
        f"fsdp={mesh.shape['fsdp']}, {jax.process_count()} process(es)"
    )
    height, width, channels = stream.image_shape
    rows, columns = options.patch_grid(stream.image_shape)
    variants = f", each in {options.variants} variants" if options.variants > 1 else ""
    console.print(
        f"data    {experiment.config.data.name}: {stream.count} training and {len(experiment.test_data)} test images, "
        f"{height}x{width}x{channels}{variants}"
    )
    console.print(
        f"model   {options.atoms} atoms of {options.patch_size}x{options.patch_size} pixels, {rows * columns} patches "
        f"an image, {options.embedding_dim} dimensions, {options.pool_cells**2 * options.embedding_dim} features"
    )
    console.print(f"run     2 passes of {chunks_of(stream)} chunks of {stream.chunk_size} images")
