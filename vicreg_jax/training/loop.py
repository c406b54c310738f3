"""The train loop: dispatches steps without waiting for them, and reads their metrics some steps late."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from vicreg_jax.errors import Preempted, TrainingError
from vicreg_jax.training.checkpoint import Checkpoints
from vicreg_jax.training.metrics import MetricsWriter
from vicreg_jax.training.preemption import Preemption
from vicreg_jax.training.progress import RunProgress
from vicreg_jax.training.state import TrainState
from vicreg_jax.training.step import Batch, Metrics

_STEPS_AHEAD = 8  # steps that the host may be ahead of the devices


@dataclass(frozen=True)
class Plan:
    """What happens when, in steps. An `evaluate_every` of 0 means never.

    Attributes:
      total_steps: updates in the whole run.
      steps_per_epoch: for the `epoch` of the metrics.
      batch_size: images a step, for `images_per_second`.
      log_every, evaluate_every, save_every: steps between.
    """

    total_steps: int
    steps_per_epoch: int
    batch_size: int
    log_every: int
    evaluate_every: int
    save_every: int

    def is_evaluated(self, step: Any) -> Any:
        """Whether the kNN accuracy is taken after that many updates (not at the end, where all is evaluated)."""
        if self.evaluate_every == 0:
            return False
        return (step % self.evaluate_every == 0) & (step != self.total_steps)

    def is_logged(self, step: Any) -> Any:
        """Whether the metrics after that many updates are logged; a bool, or traced where `step` is."""
        return (step % self.log_every == 0) | (step == self.total_steps) | self.is_evaluated(step)


def train(
    state: TrainState,
    *,
    plan: Plan,
    terms: tuple[str, ...],
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    batches: Iterator[Batch],
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    progress: RunProgress,
    preemption: Preemption,
    evaluate: Callable[[TrainState], dict[str, float]],
    warn: Callable[[dict[str, Any]], str | None],
    record: Callable[[], dict[str, Any]],
) -> TrainState:
    """Runs the steps that are left.

    Args:
      state: where to begin; its arrays are donated.
      plan: what happens when.
      terms: the method's loss terms, as its metrics name them.
      train_step: see `vicreg_jax.training.step`, compiled.
      batches: the batches from `state.step` on.
      checkpoints, writer, progress: where state, metrics and a person's view of them go.
      preemption: whether the run is asked to leave.
      evaluate: state -> metrics; called where the plan says so, and waited for.
      warn: a logged row -> a warning for the person, or None.
      record: what is written beside a checkpoint; its `seconds` says how long the run has taken so far.

    Returns:
      The state after the last step, saved.

    Raises:
      TrainingError: where a loss term or the gradient is not finite; the checkpoints before it stay.
      Preempted: on SIGTERM, when the state is saved.
    """
    step = int(state.step)
    unread: list[tuple[int, Metrics]] = []
    read_at, read_step = time.perf_counter(), step
    last_warning = None

    def read(last: int) -> None:
        # Waits for the devices, up to step `last`; writes the logged ones among the steps read.
        nonlocal unread, read_at, read_step, last_warning
        due = [(s, metrics) for s, metrics in unread if s <= last]
        unread = unread[len(due) :]
        _check_finite(due, terms, checkpoints)
        logged = [(s, metrics) for s, metrics in due if plan.is_logged(s)]
        if not logged:
            return
        now = time.perf_counter()
        images_per_second = (logged[-1][0] - read_step) * plan.batch_size / (now - read_at)
        read_at, read_step = now, logged[-1][0]
        for s, metrics in logged:
            row: dict[str, Any] = {"step": s, "epoch": round(s / plan.steps_per_epoch, 4)}
            row |= {name: float(value) for name, value in jax.device_get(metrics).items()}
            row["images_per_second"] = round(images_per_second, 2)
            row["seconds"] = round(record()["seconds"], 3)
            if plan.is_evaluated(s):
                row |= evaluate(state)
                read_at = time.perf_counter()
            writer.write(row)
            progress.update(row)
            warning = warn(row)
            if warning is not None and warning != last_warning:
                progress.message(f"step {s}: {warning}", style="bold yellow")
            last_warning = warning

    def save() -> None:
        # All that led to this state is read first: a state that is not finite is never saved.
        read(step)
        checkpoints.save(step, state, record())

    with preemption.deferred():
        while step < plan.total_steps:
            state, metrics = train_step(state, next(batches))
            step += 1
            unread.append((step, metrics))
            progress.advance(step)
            if plan.is_evaluated(step):
                read(step)
            elif len(unread) >= _STEPS_AHEAD:
                # Late, so that the devices have work while the host reads; bounded, for batches wait in memory.
                jax.block_until_ready(unread[-_STEPS_AHEAD][1]["loss"])
                if plan.is_logged(step - _STEPS_AHEAD + 1):
                    read(step - _STEPS_AHEAD + 1)
            leave = step < plan.total_steps and preemption.asked_to_leave(step)
            if leave or step % plan.save_every == 0 or step == plan.total_steps:
                save()
            if leave:
                raise Preempted(f"asked to leave: step {step} is saved; the same command goes on from there")
    return state


def _check_finite(steps: list[tuple[int, Metrics]], terms: tuple[str, ...], checkpoints: Checkpoints) -> None:
    # Causes before effects: the first that is not finite is named.
    watched = (*terms, "loss", "gradient_norm", "update_norm")
    for step, values in jax.device_get([(s, {name: m[name] for name in watched}) for s, m in steps]):
        bad = next((name for name in watched if not math.isfinite(values[name])), None)
        if bad is not None:
            # A loss that is not finite comes of the state this step began with; a gradient or update ruins the next.
            kept = checkpoints.discard_from(step - 1 if bad in (*terms, "loss") else step)
            raise TrainingError(
                f"step {step}: {bad} is {values[bad]}; stopped. "
                + ("No good state had been saved yet. " if kept is None else f"The checkpoint of step {kept} is kept. ")
                + "A lower config.optim.base_lr or a longer config.optim.warmup_epochs, in another --workdir, is the "
                "usual remedy."
            )
