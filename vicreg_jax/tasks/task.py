"""What a task is: one object with a handful of methods, which `run.py` runs from start to end."""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict
from rich.console import Console

from vicreg_jax.config import Table, to_json
from vicreg_jax.data import Batch, Dataset, is_resident, train_batches
from vicreg_jax.data.in_flight import usable_cores
from vicreg_jax.data.loader import MAX_THREADS
from vicreg_jax.encoder import Weights
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.splits import open_splits
from vicreg_jax.tasks.tables import show_feature_accuracies
from vicreg_jax.training.mesh import batch_sharding
from vicreg_jax.training.plan import Plan
from vicreg_jax.training.step import Metrics, trace_step

State = Any  # a pytree with an integer scalar `step`
Step = Callable[[State, Batch], tuple[State, Metrics]]


@dataclass(frozen=True)
class Site:
    """Where a task is built.

    Attributes:
        devices: of the mesh; None: all that are here.
        open_splits: `(config, decode_size) -> (train, test)`.
        opens_transfer: whether the datasets of `evaluation.transfer` are opened.
    """

    devices: Sequence[Any] | None = None
    open_splits: Callable[[ConfigDict, int | None], tuple[Dataset, Dataset]] = open_splits
    opens_transfer: bool = True


HERE = Site()


@dataclass(frozen=True)
class Experiment:
    """A checked config and what every task has of it; the datasets are open, nothing is compiled."""

    config: ConfigDict
    mesh: Mesh
    train_data: Dataset
    evaluation_train_data: Dataset  # whose labels the classifiers learn; of most tasks the same object
    test_data: Dataset
    plan: Plan

    def __post_init__(self) -> None:
        """Checks what only the whole tells."""
        steps, total = self.config.logging.profile_steps, self.plan.total_steps
        if steps and steps[1] > total:
            raise InputError(f"config.logging.profile_steps must end at the last step, {total}, at most; got {steps}")

    @property
    def sharding(self) -> NamedSharding:
        """Of images over the devices."""
        return batch_sharding(self.mesh)

    @property
    def splits(self) -> dict[str, Dataset]:
        """By the config field that names them."""
        if self.evaluation_train_data is self.train_data:
            return {"data.train_split": self.train_data, "data.test_split": self.test_data}
        return {
            "data.train_split": self.train_data,
            "evaluation.train_split": self.evaluation_train_data,
            "evaluation.test_split": self.test_data,
        }

    def is_resident(self, dataset: Dataset) -> bool:
        """Whether all images of a split live on the devices."""
        return is_resident(dataset, self.config.data.placement)


ExperimentType = TypeVar("ExperimentType", bound=Experiment)


class Findings(NamedTuple):
    """What the final evaluation finds.

    Attributes:
        results: entries of `summary.json`, as JSON holds them.
        exhibits: what only the report shows: pictures, spectra.
    """

    results: dict[str, Any]
    exhibits: Any


@dataclass(frozen=True)
class Outcome:
    """A finished run, as its report takes it."""

    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    exhibits: Any


class Task(abc.ABC, Generic[ExperimentType]):
    """One run. `from_config` checks everything; the other methods follow in the order in which `run.py` calls them.

    Attributes:
        experiment: the checked config and what it names.
        name: of the method, for people.
        terms: names of the loss terms among the metrics.
        shown: metrics on the progress line.
        final_metrics: metrics of the last step that the summary repeats.
        memory_remedy, nonfinite_remedy: sentences on what to change where memory is short, or the loss not finite.
    """

    terms: tuple[str, ...] = ()
    shown: tuple[str, ...]
    final_metrics: tuple[str, ...] = ("loss",)
    memory_remedy: str
    nonfinite_remedy: str = ""

    def __init__(self, experiment: ExperimentType):
        self.experiment = experiment

    @classmethod
    @abc.abstractmethod
    def table(cls, method: str) -> Table:
        """The fields of this task's config, with that method."""

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config: ConfigDict, site: Site = HERE) -> "Task":
        """The task of a config, checked, its datasets open.

        Raises:
            InputError: at the first field that is not valid, naming it; nothing has been compiled.
        """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Of the method, for people."""

    @property
    def plan(self) -> Plan:
        """What happens at which step."""
        return self.experiment.plan

    @property
    def duration(self) -> str:
        """How long the run is, for people."""
        plan = self.plan
        epochs = plan.total_steps // plan.steps_per_epoch
        return f"{plan.total_steps} steps of {plan.batch_size} images, {epochs} epochs of {plan.steps_per_epoch} steps"

    @abc.abstractmethod
    def init(self, key: jax.Array) -> State:
        """The state before the first step; traced."""

    def weights(self) -> Mapping[str, Weights]:
        """The weights that the config names for some parts, in place of those of `init`; read at the first call.

        Raises:
            InputError: they cannot be read, naming the field.
        """
        return {}

    def start(self, state: State, shardings: Any) -> State:
        """The state that training starts from: that of `init`, which is donated, with `weights` in their places."""
        return state

    @abc.abstractmethod
    def describe(self, shapes: State) -> list[str]:
        """Lines for the console about the model, from the shapes of the state."""

    def batches(self, start_step: int) -> Iterator[Batch]:
        """The training batches from that step on."""
        experiment, data = self.experiment, self.experiment.config.data
        return train_batches(
            experiment.train_data,
            batch_size=self.plan.batch_size,
            seed=experiment.config.seed,
            start_step=start_step,
            sharding=experiment.sharding,
            resident=experiment.is_resident(experiment.train_data),
            workers=data.workers,
        )

    @property
    def input_remedy(self) -> str:
        """What to change where the run waits for its images; empty where they all live on the devices."""
        if self.experiment.is_resident(self.experiment.train_data):
            return ""
        workers, store = self.experiment.config.data.workers, "prepare a store (docs/guides/data.md)"
        has_idle_cores = usable_cores() > MAX_THREADS * max(1, workers)
        return f"raise config.data.workers, now {workers}, or {store}" if has_idle_cores else store

    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """One update; traced. A task whose step is several programs overrides `compile` instead."""
        raise NotImplementedError

    def compile(self, shapes: State, shardings: Any, start_step: int) -> Step:
        """The step for states of these shapes and shardings, compiled; `start_step` is the first one it will run."""
        data, rows = self.experiment.train_data, self.plan.batch_size
        batch = {
            "image": jax.ShapeDtypeStruct((rows, data.canvas, data.canvas, data.channels), jnp.uint8),
            "aspect_ratio": jax.ShapeDtypeStruct((rows,), jnp.float32),
            "label": jax.ShapeDtypeStruct((rows,), jnp.int32),
        }
        traced = trace_step(self.step, mesh=self.experiment.mesh, state=shapes, shardings=shardings, batch=batch)
        return traced.lower().compile()

    def lower_evaluation(self, shapes: State, shardings: Any) -> dict[str, jax.stages.Lowered]:
        """The programs of the evaluation that run the network, by name, to be compiled without a run."""
        return {}

    def to_row(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The metrics of a logged step, from what the step returned: scalars by name."""
        return {name: value.item() for name, value in metrics.items()}

    def evaluate(self, state: State) -> dict[str, float]:
        """Metrics of a state while training; every process calls it."""
        return {}

    def warning(self, row: Mapping[str, Any]) -> str | None:
        """A warning about a logged step, or None."""
        return None

    @abc.abstractmethod
    def assess(self, state: State, initial: State) -> Findings:
        """The final evaluation of a trained state, beside the initial one; every process calls it."""

    def save_artifacts(self, workdir: Path, exhibits: Any) -> None:
        """Writes what the task leaves beside checkpoints, summary and report; nothing for most."""

    def headline(self, summary: Mapping[str, Any]) -> str | None:
        """A line for the console above the table of accuracies, or None."""
        return None

    def show_accuracies(self, console: Console, summary: Mapping[str, Any]) -> None:
        """Prints the accuracies of `summary.json` beside its baselines."""
        show_feature_accuracies(console, summary)

    @abc.abstractmethod
    def write_report(self, path: Path, outcome: Outcome) -> None:
        """Writes `report.html` atomically."""

    @property
    def config_fields(self) -> dict[str, Any]:
        """The config as JSON holds it, for the report."""
        return to_json(self.experiment.config)
