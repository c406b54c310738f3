"""The train loop by itself: a step that only counts, and stand-ins that write down what is asked of them."""

import itertools
import math
import signal
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import NamedTuple

import jax.numpy as jnp
import pytest

from vicreg_jax.runtime.errors import Interrupted, Preempted, TrainingError
from vicreg_jax.training import loop
from vicreg_jax.training.loop import RunFiles, train
from vicreg_jax.training.plan import Plan

NAN, INFINITE = math.nan, math.inf


class State(NamedTuple):
    step: int


class Run:
    """A run of 20 steps; `events` says what happened, in order.

    Args:
        faults: by step, the metrics that differ.
        counted: whether non-finite updates are skipped and counted.
        before_step: called before each step with its number.
        plan: other fields of the plan.
    """

    def __init__(self, faults=None, *, counted=False, before_step=lambda step: None, **plan):
        self.faults, self.counted, self.before_step = faults or {}, counted, before_step
        defaults = {"total_steps": 20, "steps_per_epoch": 10, "batch_size": 4, "log_every": 1}
        self.plan = Plan(**(defaults | {"evaluate_every": 0, "save_every": 1000} | plan))
        self.events, self.rows, self.messages, self.skipped = [], [], [], 0

    def note(self, *event):
        self.events.append(event)

    def train_step(self, state, batch):
        step = state.step + 1
        assert batch == step
        self.before_step(step)
        self.note("step", step)
        metrics = {"loss": 1.0 / step, "term": 2.0, "gradient_norm": 3.0, "update_norm": 4.0} | self.faults.get(
            step, {}
        )
        if self.counted:
            self.skipped += step in self.faults
            metrics["skipped_updates"] = self.skipped
        return State(step), {name: jnp.asarray(value) for name, value in metrics.items()}

    def write(self, row):
        self.rows.append(row)
        self.note("row", row["step"])

    def save(self, step, state, record):
        assert (state.step, record) == (step, {"is": "the record"})
        self.note("save", step)

    def discard_from(self, step):
        self.note("discard", step)
        return max((saved for saved in self.saved if saved < step), default=None)

    def evaluate(self, state):
        self.note("evaluate", state.step)
        return {"knn_accuracy": 0.5}

    def __call__(self, start=0, preemption=None, warn=lambda row: None, batches=None, input_remedy=""):
        task = SimpleNamespace(
            to_row=lambda metrics: {name: value.item() for name, value in metrics.items()},
            plan=self.plan,
            terms=("term",),
            nonfinite_remedy="Lower it.",
            input_remedy=input_remedy,
            evaluate=self.evaluate,
            warning=warn,
        )
        files = RunFiles(
            checkpoints=SimpleNamespace(
                save=self.save, check=lambda: self.note("check"), discard_from=self.discard_from
            ),
            writer=SimpleNamespace(write=self.write, sync=lambda: self.note("sync")),
            progress=SimpleNamespace(
                advance=lambda step: None,
                update=lambda row: None,
                message=lambda text, style="": self.messages.append(text),
            ),
            seconds=lambda: 12.3456,
            record=lambda: {"is": "the record"},
        )
        return train(
            State(start),
            self.train_step,
            batches or itertools.count(start + 1),
            task=task,
            files=files,
            preemption=preemption or SimpleNamespace(received=0, deferred=nullcontext),
        )

    def of(self, kind):
        return [event[1] for event in self.events if event[0] == kind]

    @property
    def saved(self):
        return self.of("save")


def test_rows_are_written_once_and_in_order():
    run = Run(log_every=3)
    assert run() == State(20)
    assert run.of("step") == list(range(1, 21))
    assert run.of("row") == [3, 6, 9, 12, 15, 18, 20]
    row = run.rows[1]
    assert (row["step"], row["epoch"], row["loss"], row["seconds"]) == (6, 0.6, pytest.approx(1 / 6), 12.346)
    assert row["images_per_second"] > 0


@pytest.mark.parametrize("remedy", ["raise workers", ""])
def test_waiting_for_images_is_measured_and_said_once(monkeypatch, remedy):
    """A third of the time goes by in the iterator, the rest in the step."""
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0]))

    def batches():
        for step in itertools.count(1):
            now[0] += 1.0
            yield step

    class SlowRun(Run):
        def train_step(self, state, batch):
            now[0] += 2.0
            return super().train_step(state, batch)

    run = SlowRun(log_every=5)
    run(batches=batches(), input_remedy=remedy)
    assert [row["input_wait"] for row in run.rows] == [0.3333] * 4
    assert run.messages == ["input-bound: 33% of the time waiting for images; raise workers"] * bool(remedy)


def test_metrics_are_read_while_the_devices_go_on():
    run = Run()
    run()
    steps_ahead = run.events.index(("row", 1)) + 1
    assert steps_ahead == 9  # eight steps were begun before the first was waited for
    assert run.events.index(("row", 2)) > run.events.index(("step", 9))
    assert ("check",) in run.events


def test_checkpoint_comes_after_the_lines_of_all_steps_before_it():
    run = Run(save_every=6)
    run()
    assert run.saved == [6, 12, 18, 20]
    for step in run.saved:
        before = run.events[: run.events.index(("save", step))]
        assert before[-1] == ("sync",)
        assert ("row", step) in before
        assert ("step", step + 1) not in before


def test_run_goes_on_from_its_step():
    run = Run(save_every=8, log_every=5)
    assert run(start=13) == State(20)
    assert (run.of("step"), run.of("row"), run.saved) == (list(range(14, 21)), [15, 20], [16, 20])
    finished = Run()
    assert finished(start=20) == State(20)
    assert finished.events == []


def test_evaluation_is_of_the_state_of_its_step():
    run = Run(evaluate_every=5, log_every=100)
    run()
    assert run.of("evaluate") == [5, 10, 15]  # at the end all is evaluated anyway
    assert [row["step"] for row in run.rows if "knn_accuracy" in row] == [5, 10, 15]
    assert run.events[run.events.index(("evaluate", 5)) - 1] == ("step", 5)


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, as the loop sees it."""
    now = SimpleNamespace(time=1000.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now.time, perf_counter=time.perf_counter))
    return now


@pytest.mark.parametrize(
    ("plan", "saved"),
    [
        ({"save_every_seconds": 35.0}, [4, 8, 12, 16, 20]),
        ({"save_every_seconds": 60.0, "save_every": 10}, [6, 10, 16, 20]),  # the clock starts anew at every save
        ({"save_every_seconds": 0.0}, [20]),
    ],
)
def test_checkpoints_by_the_clock(clock, plan, saved):
    def ten_seconds_pass(step):
        clock.time += 10

    run = Run(before_step=ten_seconds_pass, **plan)
    run()
    assert run.saved == saved


FAULTS = [
    # A loss comes of the state before, which may be saved: that one goes too.
    ({"loss": NAN, "gradient_norm": NAN}, "loss is nan", 12, "the checkpoint of step 9 is kept"),
    ({"term": INFINITE, "loss": INFINITE}, "term is inf", 12, "the checkpoint of step 9 is kept"),
    ({"gradient_norm": INFINITE, "update_norm": NAN}, "gradient_norm is inf", 13, "the checkpoint of step 12 is kept"),
    ({"update_norm": NAN}, "update_norm is nan", 13, "the checkpoint of step 12 is kept"),
    ({"update_norm/layer": NAN}, "update_norm/layer is nan", 13, "the checkpoint of step 12 is kept"),
]


@pytest.mark.parametrize(("fault", "what", "discarded", "kept"), FAULTS)
def test_what_is_not_finite_stops_the_run(fault, what, discarded, kept):
    run = Run({13: fault}, save_every=3)
    with pytest.raises(TrainingError, match=rf"^step 13: {what}; stopped; {kept}\. Lower it"):
        run()
    assert run.of("discard") == [discarded]
    assert run.saved == [3, 6, 9, 12]
    assert max(run.of("step")) <= 15  # step 15 would be saved


def test_state_that_is_not_finite_is_never_saved():
    run = Run({6: {"update_norm": NAN}}, save_every=6, log_every=100)
    with pytest.raises(TrainingError, match="no finite state had been saved"):
        run()
    assert run.saved == []


def test_skipped_updates_are_named_up_to_a_maximum():
    faults = {4: {"loss": NAN}, 9: {"gradient_norm": INFINITE}}
    run = Run(faults, counted=True, max_skipped=2)
    assert run() == State(20)
    assert run.messages == [
        "step 4: loss is nan; update skipped (1 so far)",
        "step 9: gradient_norm is inf; update skipped (2 so far)",
    ]
    assert (run.of("discard"), run.saved) == ([], [20])

    run = Run(faults, counted=True, max_skipped=1)
    with pytest.raises(TrainingError, match=r"^step 9: gradient_norm is inf; stopped: more than 1 non-finite update"):
        run()


def test_warning_is_said_when_it_changes():
    run = Run()
    run(warn=lambda row: "rank 1" if row["step"] in (3, 4, 5, 9) else None)
    assert run.messages == ["step 3: rank 1", "step 9: rank 1"]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Preempted), (signal.SIGINT, Interrupted)])
def test_signal_is_followed_when_the_state_is_saved(listener, number, error):
    def preempt(step):
        if step == 5:
            signal.raise_signal(number)

    run = Run(before_step=preempt)
    with pytest.raises(error, match=r"^preempted: saved step 5"), listener:
        run(preemption=listener)
    assert run.saved == [5]
    assert run.of("row") == [1, 2, 3, 4, 5]


def test_signal_at_the_last_step_comes_after_its_checkpoint(listener):
    run = Run(before_step=lambda step: signal.raise_signal(signal.SIGTERM) if step == 20 else None)
    with pytest.raises(Preempted), listener:
        run(preemption=listener)
    assert run.saved == [20]
