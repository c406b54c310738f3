"""The task `smt`: fits the transform to a data set, then says in numbers and pictures what its features are worth."""

import collections
import dataclasses
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict
from rich.console import Console

from vicreg_jax.assessment import Features, labelled, neighbour_grid
from vicreg_jax.augment import central_view
from vicreg_jax.config import check_config, to_json
from vicreg_jax.data import Dataset
from vicreg_jax.errors import InputError, TrainingError
from vicreg_jax.evaluation.features import extract_features, raw_pixel_features
from vicreg_jax.evaluation.protocol import evaluate_features
from vicreg_jax.experiment_data import check_same_data, data_facts, open_splits, unreadable_images
from vicreg_jax.processes import Vote, decide, is_first, union
from vicreg_jax.results import show_results
from vicreg_jax.smt.files import save_smt
from vicreg_jax.smt.fit import FitState, chunks_of, fit_steps, fitted, initial_state
from vicreg_jax.smt.options import SMTOptions
from vicreg_jax.smt.report import write_smt_report
from vicreg_jax.smt.stream import DatasetStream
from vicreg_jax.smt.transform import SMT, image_features
from vicreg_jax.smt.variants import image_variants
from vicreg_jax.training.checkpoint import Checkpoints
from vicreg_jax.training.memory import explained_device_errors
from vicreg_jax.training.mesh import batch_sharding, make_mesh, replicated, state_shardings
from vicreg_jax.training.metrics import MetricsWriter, read_metrics
from vicreg_jax.training.preemption import Preemption, leave
from vicreg_jax.training.progress import RunProgress
from vicreg_jax.workdir import held_workdir, read_json, write_config, write_json

_CHUNKS_AHEAD = 2  # that the host may be ahead of the devices
_SHOWN = ("active_atoms", "empty_patches", "images_per_second")
_MEMORY_REMEDY = "A smaller config.train.batch_size, fewer config.method.atoms or config.mesh.fsdp make it less"
_RAW_PIXELS_SIZE = 32  # side, at most: a classifier of more pixels takes longer than the transform


@dataclasses.dataclass(frozen=True)
class SMTRun:
    """A config, checked, and what it names."""

    config: ConfigDict
    options: SMTOptions
    train_data: Dataset
    test_data: Dataset
    mesh: Mesh
    stream: DatasetStream  # of the training images

    @property
    def sharding(self) -> NamedSharding:
        """Of images over the devices."""
        return batch_sharding(self.mesh)


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


def build(config: ConfigDict) -> SMTRun:
    """Checks the config and opens its data sets.

    Raises:
      InputError: at the first thing that cannot be used, naming the field.
    """
    check_config(config)
    fields = dict(config.method)
    if (name := fields.pop("name")) != "smt":
        raise InputError(f"config.method.name: got {name!r}, takes 'smt' where config.task='smt'")
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    try:
        options = SMTOptions(**fields)
        train_data, test_data = open_splits(config, config.data.image_size)
        stream = _stream(config, train_data, batch_sharding(mesh))
        options.check_images(stream.image_shape, stream.count)
        options.check_chunk(stream.image_shape, stream.chunk_size)
    except InputError:
        raise
    except ValueError as error:
        raise _as_input_error(error) from error
    return SMTRun(config, options, train_data, test_data, mesh, stream)


def _as_input_error(error: ValueError) -> InputError:
    """What the transform says of one of its arguments, as of the config's field."""
    name = str(error).partition(":")[0]
    if name in {field.name for field in dataclasses.fields(SMTOptions)}:
        return InputError(f"config.method.{error}")
    return InputError(f"config.train.batch_size: {error}" if name == "chunk_size" else f"config.data: {error}")


def _stream(config: ConfigDict, dataset: Dataset, sharding: NamedSharding) -> DatasetStream:
    data = config.data
    return DatasetStream(
        dataset,
        chunk_size=config.train.batch_size,
        sharding=sharding,
        placement=data.placement,
        workers=data.workers,
    )


def _smt(run: SMTRun, workdir: Path, preemption: Preemption, started: float) -> None:
    config = run.config
    console = Console(quiet=not is_first(), highlight=False)
    finished = decide(lambda: read_json(workdir / "summary.json"))
    # With other evaluation settings a finished run is evaluated anew.
    if finished is not None and finished.get("evaluation") == to_json(config)["evaluation"]:
        console.print("this run is complete")
        show_results(console, finished, workdir)
        return
    if is_first():
        write_config(workdir, config)
    _describe(console, run)

    initialise = partial(initial_state, run.options, run.stream.image_shape)
    shapes = jax.eval_shape(initialise)
    shardings = state_shardings(run.mesh, shapes)
    with Checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as checkpoints:
        restored = checkpoints.restore(shapes, shardings, partial(console.print, style="bold yellow", soft_wrap=True))
        seconds_before = 0.0
        if restored is None:
            state = jax.jit(initialise, out_shardings=shardings)()
        else:
            start_step, state, record = restored
            check_same_data(config, run.train_data, record["data"])
            run.train_data.unreadable.update(record["unreadable"])
            seconds_before = record["seconds"]
            console.print(f"going on from the checkpoint of chunk {start_step}")
        seconds = lambda: seconds_before + time.perf_counter() - started  # noqa: E731
        state = _fit(run, state, shardings, workdir, checkpoints, preemption, console, seconds)
        # The last checkpoint is written meanwhile.
        with console.status("evaluating"):
            transform = fitted(jax.device_put(state, replicated(run.mesh)), run.options, run.stream.image_shape)
            results, neighbours = _assess(run, transform)

    unreadable = unreadable_images(run.train_data, run.test_data)
    if is_first():
        metrics = read_metrics(workdir / "metrics.jsonl")
        summary = _summary(run, transform, metrics, results, seconds()) | {"unreadable_images": unreadable}
        save_smt(workdir, transform)
        try:
            write_smt_report(
                workdir / "report.html",
                smt=transform,
                summary=summary,
                config=to_json(config),
                metrics=metrics,
                neighbours=neighbours,
                class_names=run.train_data.class_names,
            )
        except OSError as error:
            raise TrainingError(f"{workdir / 'report.html'} cannot be written: {error}; stopped") from error
        write_json(workdir / "summary.json", summary)
        show_results(console, summary, workdir)


def _fit(
    run: SMTRun,
    state: FitState,
    shardings: FitState,
    workdir: Path,
    checkpoints: Checkpoints,
    preemption: Preemption,
    console: Console,
    seconds: Any,
) -> FitState:
    """Sees the chunks that are left, saving and logging as the config says."""
    config, step = run.config, int(state.step)
    chunks = chunks_of(run.stream)
    unread: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
    read_at, read_step = time.perf_counter(), step
    saved_at = time.monotonic()
    vote = Vote()
    steps = fit_steps(run.stream, run.options, jax.random.key(config.seed), state, shardings)
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
                images_per_second = (s - read_step) * run.stream.chunk_size / (now - read_at)
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
                progress.message(f"solving the eigenproblem of {run.options.atoms} atoms")
            try:
                state, counted = next(steps)
            except ValueError as error:
                raise _as_input_error(error) from error
            step += 1
            unread.append((step, counted))
            progress.advance(step)
            read(all_but=0 if is_logged(step) else _CHUNKS_AHEAD)
            is_due = is_first() and 0 < 60 * config.checkpoint.every_minutes <= time.monotonic() - saved_at
            decision = vote.cast(preemption.received or int(is_due))
            if decision or step % config.checkpoint.every_steps == 0 or step % chunks == 0:
                read(all_but=0)
                writer.sync()
                checkpoints.save(
                    step,
                    state,
                    {
                        "seconds": seconds(),
                        "data": data_facts(run.train_data),
                        "unreadable": sorted(union(run.train_data.unreadable)),
                    },
                )
                saved_at = time.monotonic()
            if decision > 1 and step < 2 * chunks:
                leave(decision, f"asked to leave: chunk {step} is saved; the same command goes on from there")
    return state


def _assess(run: SMTRun, transform: SMT) -> tuple[dict[str, Any], Any]:
    """Accuracies, with those of raw pixels and of a random projection as `baselines`; and the report's neighbours."""
    train, test = _splits_features(run, transform)
    results = _accuracies(run, train, test)
    baselines = None
    if results["knn_accuracy"] is not None:
        # The same codes, patches and pooling: what the eigenproblem is worth.
        key = jax.random.fold_in(jax.random.key(run.config.seed), 1)
        shape = transform.projection.shape
        random = dataclasses.replace(transform, projection=jax.random.normal(key, shape))
        baselines = {
            "raw_pixels": _accuracies(run, *(_raw_pixels(run, split) for split in (run.train_data, run.test_data))),
            "random_projection": _accuracies(run, *_splits_features(run, random)),
        }
    features, labels = train
    unchanged = features[: len(run.train_data)], labels[: len(run.train_data)]
    neighbours = neighbour_grid(run.train_data, run.test_data, unchanged, test, run.sharding)
    return results | {"baselines": baselines}, neighbours


def _splits_features(run: SMTRun, transform: SMT) -> tuple[Features, Features]:
    """Features of both splits; of the training images in all variants, as they are first."""
    train = [_features(run, transform, run.train_data, variant) for variant in range(run.options.variants)]
    features, labels = zip(*train, strict=True)
    return (np.concatenate(features), np.concatenate(labels)), _features(run, transform, run.test_data, 0)


def _features(run: SMTRun, transform: SMT, dataset: Dataset, variant: int) -> Features:
    @jax.jit
    def apply(transform: SMT, batch: Any) -> jax.Array:
        images = image_variants(batch["image"], run.options)[:, variant]
        return image_features(transform, images, run.sharding)

    return extract_features(apply, transform, _stream(run.config, dataset, run.sharding).batches())


def _raw_pixels(run: SMTRun, dataset: Dataset) -> Features:
    size = min(run.config.data.image_size, _RAW_PIXELS_SIZE)
    view = partial(central_view, image_size=size, crop_fraction=1.0, mean=(0.0,), std=(1.0,))
    return raw_pixel_features(_stream(run.config, dataset, run.sharding).batches(), view)


def _accuracies(run: SMTRun, train: Features, test: Features) -> dict[str, Any]:
    train, test = labelled(train), labelled(test)
    classes = run.train_data.num_classes
    if classes is None or run.test_data.num_classes is None or not (len(train[1]) and len(test[1])):
        return dict.fromkeys(("knn_accuracy", "linear_accuracy", "few_label_accuracy"))
    evaluation = run.config.evaluation
    return evaluate_features(
        *train,
        *test,
        num_classes=classes,
        neighbours=evaluation.knn_neighbours,
        temperature=evaluation.knn_temperature,
        labels_per_class=evaluation.labels_per_class,
        draws=evaluation.draws,
        seed=run.config.seed,
        sharding=run.sharding,
    )


def _summary(
    run: SMTRun, transform: SMT, metrics: list[dict[str, Any]], results: dict[str, Any], seconds: float
) -> dict[str, Any]:
    devices = run.mesh.devices
    rows, columns = run.options.patch_grid(run.stream.image_shape)
    last = metrics[-1]
    return {
        "method": "smt",
        "dataset": run.config.data.name,
        "steps": 2 * chunks_of(run.stream),
        "epochs": 2,
        "seconds": round(seconds, 2),
        "images_per_second": statistics.median(row["images_per_second"] for row in metrics),
        "loss": float(jnp.sum(transform.eigenvalues)),
        "devices": f"{devices.size} x {devices.flat[0].device_kind}",
        "atoms": run.options.atoms,
        "embedding_dim": run.options.embedding_dim,
        "patches": run.stream.count * run.options.variants * rows * columns,
        "active_atoms": last["active_atoms"],
        "empty_patches": last["empty_patches"],
        **results,
        "evaluation": to_json(run.config)["evaluation"],
    }


def _describe(console: Console, run: SMTRun) -> None:
    mesh, options, stream = run.mesh, run.options, run.stream
    console.print(
        f"devices {mesh.size} x {mesh.devices.flat[0].device_kind}, mesh data={mesh.shape['data']} "
        f"fsdp={mesh.shape['fsdp']}, {jax.process_count()} process(es)"
    )
    height, width, channels = stream.image_shape
    rows, columns = options.patch_grid(stream.image_shape)
    variants = f", each in {options.variants} variants" if options.variants > 1 else ""
    console.print(
        f"data    {run.config.data.name}: {stream.count} training and {len(run.test_data)} test images, "
        f"{height}x{width}x{channels}{variants}"
    )
    console.print(
        f"model   {options.atoms} atoms of {options.patch_size}x{options.patch_size} pixels, {rows * columns} patches "
        f"an image, {options.embedding_dim} dimensions, {options.pool_cells**2 * options.embedding_dim} features"
    )
    console.print(f"run     2 passes of {chunks_of(stream)} chunks of {stream.chunk_size} images")
