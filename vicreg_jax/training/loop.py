"""The train loop: dispatches steps without waiting for them, and reads their metrics some steps late."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jax

from vicreg_jax.runtime.errors import TrainingError
from vicreg_jax.runtime.preemption import Preemption, leave
from vicreg_jax.runtime.processes import Vote, is_first
from vicreg_jax.training.checkpoint import Checkpoints
from vicreg_jax.training.metrics import MetricsWriter
from vicreg_jax.training.progress import RunProgress
from vicreg_jax.training.step import Batch, Metrics

_STEPS_AHEAD = 8  # steps that the host may be ahead of the devices
_REMEDY = (
    "A lower config.optim.base_lr or a longer config.optim.warmup_epochs, in another --workdir, is the usual remedy."
)
# After the loss terms, these are what tells that a state is not finite; with a layer's name after a slash, of it alone.
_NORMS = ("gradient_norm", "update_norm")
_SAVE = 1  # a vote to save and go on; a signal's number, all of which are larger, is one to save and leave


class Steps(Protocol):
    """A pytree that counts its updates."""

    @property
    def step(self) -> jax.Array:
        """Integer scalar."""


State = TypeVar("State", bound=Steps)


@dataclass(frozen=True)
class Plan:
    """What happens when, in steps. An `evaluate_every` or `save_every_seconds` of 0 means never.

    Attributes:
      total_steps: updates in the whole run.
      steps_per_epoch: for the `epoch` of the metrics.
      batch_size: images a step, for `images_per_second`.
      log_every, evaluate_every, save_every: steps between.
      save_every_seconds: at most so long after a checkpoint another is saved.
      most_skipped: updates that may be left out because they are not finite, before the run stops.
    """

    total_steps: int
    steps_per_epoch: int
    batch_size: int
    log_every: int
    evaluate_every: int
    save_every: int
    save_every_seconds: float = 0.0
    most_skipped: int = 0

    def is_evaluated(self, step: Any) -> Any:
        """Whether the kNN accuracy is taken after that many updates (not at the end, where all is evaluated)."""
        if self.evaluate_every == 0:
            return False
        return (step % self.evaluate_every == 0) & (step != self.total_steps)

    def is_logged(self, step: Any) -> Any:
        """Whether the metrics after that many updates are logged; a bool, or traced where `step` is."""
        return (step % self.log_every == 0) | (step == self.total_steps) | self.is_evaluated(step)


def train(
    state: State,
    *,
    plan: Plan,
    terms: tuple[str, ...],
    train_step: Callable[[State, Batch], tuple[State, Metrics]],
    batches: Iterator[Batch],
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    progress: RunProgress,
    preemption: Preemption,
    evaluate: Callable[[State], dict[str, float]],
    warn: Callable[[dict[str, Any]], str | None],
    seconds: Callable[[], float],
    record: Callable[[], dict[str, Any]],
) -> State:
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
      seconds: how long the run has taken so far, interruptions apart.
      record: what is written beside a checkpoint; called by all processes together.

    Returns:
      The state after the last step, saved.

    Raises:
      TrainingError: where a loss term or the gradient is not finite, more often than the plan allows; the checkpoints
        before it stay. Or where checkpoint or metrics cannot be written.
      Preempted, Interrupted: on SIGTERM and SIGINT, when the state is saved.
    """
    step = int(state.step)
    unread: list[tuple[int, Metrics]] = []
    read_at, read_step = time.perf_counter(), step
    last_warning = None
    vote = Vote()
    saved_at = time.monotonic()

    def read(last: int) -> None:
        # Waits for the devices, up to step `last`; writes the logged ones among the steps read.
        nonlocal unread, read_at, read_step, last_warning
        due = [(s, metrics) for s, metrics in unread if s <= last]
        unread = unread[len(due) :]
        if warning := _check_finite(due, terms, checkpoints, plan.most_skipped):
            progress.message(warning, style="bold yellow")
        logged = [(s, metrics) for s, metrics in due if plan.is_logged(s)]
        if not logged:
            return
        now = time.perf_counter()
        images_per_second = (logged[-1][0] - read_step) * plan.batch_size / (now - read_at)
        read_at, read_step = now, logged[-1][0]
        for s, metrics in logged:
            row: dict[str, Any] = {"step": s, "epoch": round(s / plan.steps_per_epoch, 4)}
            row |= {name: value.item() for name, value in jax.device_get(metrics).items()}
            row["images_per_second"] = round(images_per_second, 2)
            row["seconds"] = round(seconds(), 3)
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
        nonlocal saved_at
        read(step)
        writer.sync()
        checkpoints.save(step, state, record())
        saved_at = time.monotonic()

    def wish() -> int:
        nonlocal saved_at
        # By the clock of the first process, once: the vote is counted some steps later.
        is_due = is_first() and 0 < plan.save_every_seconds <= time.monotonic() - saved_at
        if is_due:
            saved_at = time.monotonic()
        return preemption.received or (_SAVE if is_due else 0)

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
                    checkpoints.check()
            decision = vote.cast(wish())
            if decision or step % plan.save_every == 0 or step == plan.total_steps:
                save()
            if decision > _SAVE and step < plan.total_steps:
                leave(decision, f"asked to leave: step {step} is saved; the same command goes on from there")
    return state


def _check_finite(
    steps: list[tuple[int, Metrics]], terms: tuple[str, ...], checkpoints: Checkpoints, most_skipped: int
) -> str | None:
    """Stops a run that is not finite; returns a line about the last update that was left out for it, if one was."""
    warning = None
    for step, values in jax.device_get([(s, {n: v for n, v in m.items() if _tells(n, terms)}) for s, m in steps]):
        # Causes before effects: the first that is not finite is named.
        watched = (*terms, "loss", *(name for norm in _NORMS for name in values if name.split("/")[0] == norm))
        bad = next((name for name in watched if not math.isfinite(values[name])), None)
        if bad is None:
            continue
        found = f"step {step}: {bad} is {values[bad]}; "
        if "skipped_updates" not in values:
            # A loss that is not finite comes of the state this step began with; a gradient or update ruins the next.
            kept = checkpoints.discard_from(step - 1 if bad in (*terms, "loss") else step)
            of_state = "No good state had been saved yet" if kept is None else f"The checkpoint of step {kept} is kept"
            raise TrainingError(f"{found}stopped. {of_state}. {_REMEDY}")
        skipped = int(values["skipped_updates"])
        if skipped > most_skipped:
            raise TrainingError(f"{found}stopped, for {most_skipped} updates had been left out before. {_REMEDY}")
        warning = f"{found}the update was left out ({skipped} so far)"
    return warning


def _tells(name: str, terms: tuple[str, ...]) -> bool:
    return name in (*terms, "loss", "skipped_updates") or name.split("/")[0] in _NORMS
