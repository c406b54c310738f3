"""The train loop: it dispatches steps without waiting for them, and reads their metrics a few steps late."""

import collections
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

from vicreg_jax.data import Batch
from vicreg_jax.runtime.errors import TrainingError
from vicreg_jax.runtime.preemption import Preemption, end_run
from vicreg_jax.runtime.processes import Vote, is_first
from vicreg_jax.training.checkpoint import Checkpoints
from vicreg_jax.training.metrics import MetricsWriter
from vicreg_jax.training.plan import Plan
from vicreg_jax.training.progress import RunProgress
from vicreg_jax.training.step import Metrics

# Metrics that tell, after the loss terms, whether a state is finite; `norm/layer` is the norm of one layer.
_NORMS = ("gradient_norm", "update_norm")
# Share of the time that a run may wait for its images before it says so.
_INPUT_BOUND = 0.05
_SAVE = 1  # a vote to save and continue; a signal's number, always larger, is a vote to save and end

State = TypeVar("State")  # a pytree with an integer scalar `step`, the number of updates


class Trainable(Protocol):
    """What the loop asks of a task."""

    @property
    def plan(self) -> Plan:
        """What happens at which step."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the loss terms among the metrics."""

    @property
    def nonfinite_remedy(self) -> str:
        """A sentence on what to change where the loss is not finite."""

    @property
    def input_remedy(self) -> str:
        """What to change where the run waits for its images; empty where they all live on the devices."""

    def to_row(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The metrics of a logged step, from what the step returned."""

    def evaluate(self, state: Any) -> dict[str, float]:
        """Metrics of a state, taken where the plan says so; every process calls it."""

    def warning(self, row: dict[str, Any]) -> str | None:
        """A warning about a logged step, or None."""


@dataclass(frozen=True)
class RunFiles:
    """Where a run goes while it trains.

    Attributes:
        checkpoints, writer, progress: of the states, the metrics and the console.
        seconds: how long the run has taken, interruptions excluded.
        record: what is written beside a checkpoint; every process calls it.
    """

    checkpoints: Checkpoints
    writer: MetricsWriter
    progress: RunProgress
    seconds: Callable[[], float]
    record: Callable[[], dict[str, Any]]


def train(
    state: State,
    train_step: Callable[[State, Batch], tuple[State, Metrics]],
    batches: Iterator[Batch],
    *,
    task: Trainable,
    files: RunFiles,
    preemption: Preemption,
) -> State:
    """Runs the remaining steps.

    Args:
        state: the state to start from; its arrays are donated.
        train_step: `(state, batch) -> (state, metrics)`, compiled.
        batches: the batches from `state.step` on.
        task: the plan, the loss terms, and the evaluation while training.
        files: where states and metrics go.
        preemption: whether a signal has come.

    Returns:
        The state after the last step, saved.

    Raises:
        TrainingError: a loss term, the gradient or the update was not finite, more often than the plan allows;
            earlier checkpoints are kept. Or a checkpoint or the metrics could not be written.
        Preempted, Interrupted: on SIGTERM and SIGINT, once the state is saved.
    """
    plan, progress = task.plan, files.progress
    step = int(state.step)  # type: ignore[attr-defined]
    reader = MetricsReader(task, files, start_step=step)
    clock = CheckpointClock(plan.save_every_seconds)
    vote = Vote()
    with preemption.deferred():
        while step < plan.total_steps:
            if work := plan.host_work.get(step + 1):
                progress.message(work)
            asked = time.perf_counter()
            batch = next(batches)
            reader.add_wait(time.perf_counter() - asked)
            state, metrics = train_step(state, batch)
            step += 1
            reader.add(step, metrics)
            progress.advance(step)
            if plan.is_evaluated(step):
                reader.read(step, state)
            else:
                reader.read_late(state)
            decision = vote.cast(preemption.received or (_SAVE if clock.is_due() else 0))
            if decision or plan.is_saved(step):
                reader.read(step, state)  # first everything that led to this state: only finite states are saved
                files.writer.sync()
                files.checkpoints.save(step, state, files.record())
                clock.restart()
            if decision > _SAVE and step < plan.total_steps:
                end_run(decision, f"preempted: saved step {step}; rerun the same command to resume")
    return state


class CheckpointClock:
    """Says when a checkpoint is due by time, on the clock of the first process."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Starts to count again: a checkpoint was saved."""
        self._since = time.monotonic()

    def is_due(self) -> bool:
        """Whether a checkpoint is due; True once, for the vote on it is counted a few steps later."""
        due = is_first() and 0 < self._seconds <= time.monotonic() - self._since
        if due:
            self.restart()
        return due


class MetricsReader:
    """Reads the metrics of dispatched steps: checks that they are finite, writes and shows those of logged steps."""

    def __init__(self, task: Trainable, files: RunFiles, *, start_step: int):
        self._task, self._files = task, files
        self._unread: collections.deque[tuple[int, Metrics]] = collections.deque()
        self._read_at, self._read_step, self._start_step = time.perf_counter(), start_step, start_step
        self._waited = 0.0
        self._last_warning: str | None = None
        self._told_of_input = not task.input_remedy

    def add_wait(self, seconds: float) -> None:
        """Takes the time that the host waited for a batch. It waits for the devices where these are slower."""
        self._waited += seconds

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a step that was dispatched."""
        self._unread.append((step, metrics))

    def read_late(self, state: Any) -> None:
        """Waits until at most `steps_ahead` steps are in flight, so that batches do not pile up in memory.

        The metrics are read that late as well: the devices have work while the host reads.
        """
        ahead = self._task.plan.steps_ahead
        if len(self._unread) < ahead:
            return
        step, metrics = self._unread[-ahead]
        jax.block_until_ready(metrics)
        if self._task.plan.is_logged(step):
            self.read(step, state)
            self._files.checkpoints.check()

    def read(self, last: int, state: Any) -> None:
        """Reads the metrics up to step `last`, and waits for the devices to get there; `state` is for evaluation."""
        due = []
        while self._unread and self._unread[0][0] <= last:
            due.append(self._unread.popleft())
        if warning := self._check_finite(due):
            self._files.progress.message(warning, style="bold yellow")
        plan = self._task.plan
        logged = [(step, metrics) for step, metrics in due if plan.is_logged(step)]
        if not logged:
            return
        rows = [(step, jax.device_get(metrics)) for step, metrics in logged]
        now = time.perf_counter()
        images_per_second = (logged[-1][0] - self._read_step) * plan.batch_size / (now - self._read_at)
        input_wait = self._waited / (now - self._read_at)
        self._tell_of_input(input_wait)
        self._read_at, self._read_step, self._waited = now, logged[-1][0], 0.0
        for step, metrics in rows:
            row: dict[str, Any] = {"step": step, "epoch": round(step / plan.steps_per_epoch, 4)}
            row |= self._task.to_row(metrics)
            row["images_per_second"] = round(images_per_second, 2)
            row["input_wait"] = round(input_wait, 4)
            row["seconds"] = round(self._files.seconds(), 3)
            if plan.is_evaluated(step):
                row |= self._task.evaluate(state)
                self._read_at = time.perf_counter()  # evaluation does not count as training
            self._log(row)

    def _tell_of_input(self, input_wait: float) -> None:
        """Says once that the devices wait for images. Decoders start with the run: its first images do not count."""
        if self._read_step > self._start_step and input_wait > _INPUT_BOUND and not self._told_of_input:
            self._told_of_input = True
            said = f"input-bound: {input_wait:.0%} of the time waiting for images; {self._task.input_remedy}"
            self._files.progress.message(said, style="bold yellow")

    def _log(self, row: dict[str, Any]) -> None:
        self._files.writer.write(row)
        self._files.progress.update(row)
        warning = self._task.warning(row)
        if warning is not None and warning != self._last_warning:
            self._files.progress.message(f"step {row['step']}: {warning}", style="bold yellow")
        self._last_warning = warning

    def _check_finite(self, steps: list[tuple[int, Metrics]]) -> str | None:
        """Stops a run that is not finite; returns a line about the last skipped update, if there was one."""
        terms, remedy = self._task.terms, self._task.nonfinite_remedy
        warning = None
        for step, values in jax.device_get([(s, {n: v for n, v in m.items() if _tells(n, terms)}) for s, m in steps]):
            # Causes before effects: the first that is not finite is named.
            norms = (name for norm in _NORMS for name in values if name.split("/")[0] == norm)
            watched = [name for name in (*terms, "loss", *norms) if name in values]
            bad = next((name for name in watched if not math.isfinite(values[name])), None)
            if bad is None:
                continue
            found = f"step {step}: {bad} is {values[bad]}; "
            if "skipped_updates" not in values:
                # A non-finite loss comes from the state before this step; a gradient or an update ruins the next.
                kept = self._files.checkpoints.discard_from(step - 1 if bad in (*terms, "loss") else step)
                of_state = (
                    "no finite state had been saved" if kept is None else f"the checkpoint of step {kept} is kept"
                )
                raise TrainingError(f"{found}stopped; {of_state}. {remedy}")
            skipped, maximum = int(values["skipped_updates"]), self._task.plan.max_skipped
            if skipped > maximum:
                raise TrainingError(f"{found}stopped: more than {maximum} non-finite update(s) skipped. {remedy}")
            warning = f"{found}update skipped ({skipped} so far)"
        return warning


def _tells(name: str, terms: tuple[str, ...]) -> bool:
    return name in (*terms, "loss", "skipped_updates") or name.split("/")[0] in _NORMS
