"""The task `pretrain`: train an encoder on unlabeled images, then show in numbers and pictures what it learned."""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vicreg_jax.config import Table, pretrain_table
from vicreg_jax.data import Batch
from vicreg_jax.encoder import Weights
from vicreg_jax.evaluation.diagnostics import (
    MONITORED_ROWS,
    collapse_metrics,
    collapse_monitor,
    collapse_warning,
)
from vicreg_jax.models import count_parameters
from vicreg_jax.runtime.agreement import build_everywhere
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.pretrain.assessment import Assessment
from vicreg_jax.tasks.pretrain.build import PretrainExperiment, build
from vicreg_jax.tasks.pretrain.report import PretrainReport, write_pretrain_report
from vicreg_jax.tasks.pretrain.weights import given_weights
from vicreg_jax.tasks.task import HERE, Findings, Outcome, Site, Task
from vicreg_jax.tasks.transfer import transfer_lines
from vicreg_jax.training.state import TrainState, init_state, replace_weights
from vicreg_jax.training.step import Metrics, TrainStep


class Pretrain(Task[PretrainExperiment]):
    """Joint-embedding pretraining."""

    memory_remedy = (
        "Set config.train.microbatch_size, config.train.remat or config.mesh.fsdp, or lower config.train.batch_size."
    )
    nonfinite_remedy = "Lower config.optim.base_lr or raise config.optim.warmup_epochs, in a new --workdir."

    def __init__(self, experiment: PretrainExperiment):
        super().__init__(experiment)
        self.terms = experiment.method.terms
        self.shown = ("loss", *self.terms, "learning_rate", "images_per_second")
        self._train_step = train_step_of(experiment)
        self._assessment = Assessment(experiment)
        self._weights: dict[str, Weights] | None = None

    @classmethod
    def table(cls, method: str) -> Table:
        """See `Task`."""
        return pretrain_table(method)

    @classmethod
    def from_config(cls, config: ConfigDict, site: Site = HERE) -> "Pretrain":
        """See `Task`."""
        return cls(build(config, site))

    @property
    def name(self) -> str:
        """Of the method."""
        return self.experiment.config.method.name

    def init(self, key: jax.Array) -> TrainState:
        """See `Task`."""
        experiment = self.experiment
        return init_state(
            key,
            method=experiment.method,
            optimizer=experiment.optimizer,
            image_shape=experiment.image_shape,
            num_classes=experiment.train_data.num_classes,
        )

    def weights(self) -> dict[str, Weights]:
        """See `Task`."""
        if self._weights is None:
            self._weights = given_weights(self.experiment)
        return self._weights

    def start(self, state: TrainState, shardings: Any) -> TrainState:
        """See `Task`."""
        if not self.weights():
            return state
        replace = jax.jit(partial(replace_weights, self.experiment.method), out_shardings=shardings, donate_argnums=0)
        started: TrainState = replace(state, _variables(self.weights()))
        return started

    def describe(self, shapes: TrainState) -> list[str]:
        """See `Task`."""
        config = self.experiment.config
        counts = {part: count_parameters({"params": params}) for part, params in shapes.params.items()}
        parts = ", ".join(f"{part} {count / 1e6:.2f} M parameters" for part, count in counts.items())
        return [f"model   {config.model.name}: {parts}, {config.train.precision}"]

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """See `Task`."""
        return self._train_step(state, batch)

    def lower_evaluation(self, shapes: TrainState, shardings: Any) -> dict[str, jax.stages.Lowered]:
        """See `Task`: the features of a batch."""
        return {"features": self._assessment.lower_features(shapes, shardings)}

    def to_row(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
        """See `Task`: with the collapse monitors, whose eigenvalues are computed here."""
        scalars = {name: value.item() for name, value in metrics.items() if value.ndim == 0}
        return scalars | collapse_metrics(metrics)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """See `Task`: the kNN accuracy."""
        return self._assessment.knn_accuracy(state)

    def warning(self, row: Mapping[str, Any]) -> str | None:
        """See `Task`: warns of a collapse."""
        config = self.experiment.config
        # During warmup the embeddings are those of a random network.
        if row["epoch"] <= config.optim.warmup_epochs or row["effective_rank"] is None:
            return None
        return collapse_warning(
            row["embedding_std"],
            row["effective_rank"],
            dim=config.model.head_dims[-1],
            batch_size=min(self.plan.batch_size, MONITORED_ROWS),
            target_std=self._healthy_std,
        )

    def assess(self, state: TrainState, initial: TrainState) -> Findings:
        """See `Task`."""
        given = None
        with suppress(InputError):  # a resumed run does without the file
            if weights := build_everywhere(self.weights):
                given = replace_weights(self.experiment.method, initial, _variables(weights))
        return self._assessment.assess(state, initial, given)

    def headline(self, summary: Mapping[str, Any]) -> str | None:
        """See `Task`: the accuracies on the datasets of `evaluation.transfer`."""
        return "\n".join(transfer_lines(summary["transfer"])) or None

    def write_report(self, path: Path, outcome: Outcome) -> None:
        """See `Task`."""
        config = self.experiment.config
        warning = self.warning(outcome.metrics[-1])
        content = PretrainReport(
            title=f"{self.name} on {config.data.name}",
            summary=outcome.summary,
            config=self.config_fields,
            metrics=outcome.metrics,
            class_names=self.experiment.evaluation_train_data.class_names,
            warnings=[*self.experiment.train_data.warnings, *([] if warning is None else [warning])],
            healthy_std=self._healthy_std,
            **outcome.exhibits,
        )
        write_pretrain_report(path, content)

    @property
    def _healthy_std(self) -> float:
        return self.experiment.method.embedding_scale(self.experiment.config.model.head_dims[-1])


def _variables(weights: Mapping[str, Weights]) -> dict[str, Any]:
    return {part: given.variables for part, given in weights.items()}


def train_step_of(experiment: PretrainExperiment) -> TrainStep:
    """The experiment's train step."""
    return TrainStep(
        method=experiment.method,
        optimizer=experiment.optimizer,
        schedule=experiment.schedule,
        views=experiment.views,
        preprocessing=experiment.preprocessing,
        monitor=collapse_monitor,
        plan=experiment.plan,
        mesh=experiment.mesh,
        skip_nonfinite=experiment.config.train.on_nonfinite == "skip",
    )
