"""The scroll: any task from its config to its report, in the order in which things happen."""

import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from vicreg_jax.config import differences, run_identity, to_json
from vicreg_jax.data import Dataset, identify
from vicreg_jax.runtime.agreement import build_everywhere, require_same
from vicreg_jax.runtime.coordination import meet
from vicreg_jax.runtime.preemption import Preemption
from vicreg_jax.runtime.processes import are_several, decide, is_first
from vicreg_jax.runtime.workdir import held_workdir, is_bound, write_config
from vicreg_jax.tasks.agreement import require_same_data
from vicreg_jax.tasks.extension import extended_config
from vicreg_jax.tasks.loggers import named_loggers, open_loggers
from vicreg_jax.tasks.results import finish, shows_finished_run, summarize
from vicreg_jax.tasks.splits import (
    explained_data_errors,
    record_of,
    record_range,
    resume_data,
    take_recorded_range,
    unreadable_images,
)
from vicreg_jax.tasks.task import Outcome, State, Step, Task
from vicreg_jax.tasks.weights import take_recorded_digests
from vicreg_jax.training.checkpoint import Checkpoints
from vicreg_jax.training.loop import RunFiles, train
from vicreg_jax.training.memory import explained_device_errors, memory_estimate
from vicreg_jax.training.mesh import state_shardings
from vicreg_jax.training.metrics import MetricsWriter, read_metrics
from vicreg_jax.training.profile import ProfiledStep
from vicreg_jax.training.progress import RunProgress, open_console
from vicreg_jax.training.state import run_key


def run(task_type: type[Task], config: ConfigDict, workdir: Path) -> None:
    """Runs or resumes a task, to its summary and report.

    Raises:
        InputError: bad input; nothing has been compiled.
        TrainingError: the run failed; see `vicreg_jax.training.loop.train`.
        Preempted, Interrupted: on SIGTERM and SIGINT, once the state is saved; the first also where another process
            died.
    """
    clock = RunClock()
    with (
        Preemption() as preemption,
        held_workdir(workdir, to_json(config), differences),
        explained_device_errors(task_type.memory_remedy),
        explained_data_errors(),
    ):
        console = open_console(quiet=not is_first())
        say = partial(console.print, soft_wrap=True)
        warn = partial(say, style="bold yellow")

        # Check the config and build what it names.
        config = extended_config(config, workdir)
        take_recorded_range(config, workdir)
        take_recorded_digests(config, workdir)
        task = build_everywhere(lambda: task_type.from_config(config))
        if are_several():
            require_same_data(task.experiment.splits)
        named = build_everywhere(lambda: named_loggers(config))
        mesh, train_data = task.experiment.mesh, task.experiment.train_data
        record_range(config, train_data)
        if shows_finished_run(console, task, workdir):
            return
        weights = {} if decide(partial(is_bound, workdir)) else build_everywhere(task.weights)  # resuming needs none
        if are_several():
            require_same({f"SHA-256 of the weights of the {part}": given.digest for part, given in weights.items()})
        images = identify(train_data)  # at the start: files may change while the run lasts
        fields = to_json(config)
        if is_first():
            write_config(workdir, fields)

        # Shapes and shardings first: the state is born sharded.
        shapes = jax.eval_shape(task.init, run_key(config.seed))
        shardings = state_shardings(mesh, shapes)
        # The key is made inside: a key that spans processes cannot be passed in.
        init = jax.jit(lambda seed: task.init(run_key(seed)), out_shardings=shardings)
        initial_state = partial(init, np.uint32(config.seed))
        _describe(console, task, shapes)
        for part, given in weights.items():
            say("; ".join((f"weights of the {part}: SHA-256 {given.digest[:12]}", *given.notes)))

        identity = partial(run_identity, fields)
        with Checkpoints(
            workdir / "checkpoints", keep=config.checkpoint.keep, kept=task.plan.kept, identity=identity
        ) as checkpoints:
            # Restore the newest intact checkpoint, or start from the seed.
            start_step, state = 0, None
            if (restored := checkpoints.restore(shapes, shardings, warn)) is not None:
                start_step, state, record = restored
                resume_data(config, train_data, images, record)
                clock.add(record["seconds"])
                console.print(f"resuming from step {start_step}")
            if state is None:
                state = task.start(initial_state(), shardings)

            # Compile.
            batches = task.batches(start_step)
            train_step = task.compile(shapes, shardings, start_step)
            _describe_memory(console, task, train_step)
            meet()  # a collective would not wait long enough for a process that compiles longer
            if (steps := config.logging.profile_steps) and is_first():
                train_step = ProfiledStep(train_step, steps, start_step=start_step, workdir=workdir, say=say)
            console.print(f"first step after {clock.seconds_here():.1f} s")

            # Train.
            with (
                MetricsWriter(
                    workdir,
                    start_step=start_step,
                    loggers=open_loggers(named, config, workdir, start_step),
                ) as writer,
                RunProgress(
                    console, start_step=start_step, total_steps=task.plan.total_steps, shown=task.shown
                ) as progress,
            ):
                files = RunFiles(
                    checkpoints, writer, progress, clock.seconds, lambda: record_of(train_data, images, clock.seconds())
                )
                state = train(state, train_step, batches, task=task, files=files, preemption=preemption)

            # Evaluate, while the last checkpoint is written in the background.
            with console.status("evaluating"):
                findings = task.assess(state, initial_state())

        # Summarize and report.
        evaluation_train_data, test_data = task.experiment.evaluation_train_data, task.experiment.test_data
        results = findings.results | {
            "unreadable_images": unreadable_images(train_data, evaluation_train_data, test_data),
            "shared_images": max(map(test_data.shared_images, (train_data, evaluation_train_data))),
            "data_notes": list(train_data.notes),
            "data_warnings": list(train_data.warnings),
        }
        if is_first():
            metrics = read_metrics(workdir / "metrics.jsonl")
            summary = summarize(task, metrics, seconds=clock.seconds(), results=results)
            task.save_artifacts(workdir, findings.exhibits)
            if headline := task.headline(summary):
                say(headline)
            outcome = Outcome(summary, metrics, findings.exhibits)
            finish(console, task, workdir, outcome)


class RunClock:
    """How long a run has taken, interruptions excluded."""

    def __init__(self) -> None:
        self._started, self._before = time.perf_counter(), 0.0

    def add(self, seconds: float) -> None:
        """Adds what the run took before it was interrupted."""
        self._before += seconds

    def seconds(self) -> float:
        """Of the whole run."""
        return self._before + self.seconds_here()

    def seconds_here(self) -> float:
        """In this process."""
        return time.perf_counter() - self._started


def _describe(console: Console, task: Task, shapes: State) -> None:
    experiment, config = task.experiment, task.experiment.config
    mesh, train_data = experiment.mesh, experiment.train_data
    console.print(
        f"devices {mesh.size} x {mesh.devices.flat[0].device_kind}, mesh data={mesh.shape['data']} "
        f"fsdp={mesh.shape['fsdp']}, {jax.process_count()} process(es)"
    )
    evaluation = (experiment.evaluation_train_data, experiment.test_data)
    has_own_data = evaluation[0] is not train_data
    images = f"{len(train_data)} training" + ("" if has_own_data else f" and {len(experiment.test_data)} test")
    labels = _labels(train_data) if has_own_data else _labels(*evaluation)
    place = "on the devices" if experiment.is_resident(train_data) else "streamed"
    console.print(
        f"data    {config.data.name}: {images} images, "
        f"{train_data.canvas}x{train_data.canvas}x{train_data.channels}, {labels}, {place}"
    )
    if has_own_data:
        counts = " and ".join(f"{len(split)} of {split.split}" for split in evaluation)
        console.print(f"        evaluation on {evaluation[0].name}: {counts}, {_labels(*evaluation)}")
    if train_data.split_rule is not None:
        console.print(f"splits  {train_data.split_rule}", soft_wrap=True)
    if train_data.value_range is not None:
        console.print("values  {:g} becomes 0, {:g} becomes 255".format(*train_data.value_range))
    for index, note in enumerate(train_data.notes):
        console.print(f"{'' if index else 'notes':8}{note}", soft_wrap=True)
    for warning in train_data.warnings:
        console.print(f"values  {warning}", style="bold yellow", soft_wrap=True)
    for line in task.describe(shapes):
        console.print(line, soft_wrap=True)
    console.print(f"run     {task.name}: {task.duration}")


def _labels(train_data: Dataset, test_data: Dataset | None = None) -> str:
    """What labels there are; a run has accuracies where both splits have some."""
    classes = [split.num_classes for split in (train_data, test_data or train_data)]
    if classes.count(None) == 1:
        unlabeled = "training" if classes[0] is None else "test"
        return f"{classes[0] or classes[1]} classes, {unlabeled} split unlabeled"
    return "unlabeled" if classes[0] is None else f"{classes[0]} classes"


def _describe_memory(console: Console, task: Task, train_step: Step) -> None:
    if not isinstance(train_step, jax.stages.Compiled):
        return  # a step of several programs, compiled one by one
    experiment = task.experiment
    splits = filter(
        experiment.is_resident, {experiment.train_data, experiment.evaluation_train_data, experiment.test_data}
    )
    line, fits = memory_estimate(train_step, sum(split.decoded_bytes for split in splits), task.memory_remedy)
    console.print(f"memory  {line}", style=None if fits else "bold yellow", soft_wrap=True)
