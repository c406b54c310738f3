"""The task `locoprop`: train an autoencoder by local losses, or by backpropagation, and evaluate it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vicreg_jax.config import Table
from vicreg_jax.data import Batch
from vicreg_jax.locoprop.step import LocoProp
from vicreg_jax.models import count_parameters
from vicreg_jax.tasks.locoprop.assessment import Assessment
from vicreg_jax.tasks.locoprop.build import LocoPropExperiment, build, rows_of
from vicreg_jax.tasks.locoprop.config import locoprop_table
from vicreg_jax.tasks.locoprop.report import LocoPropReport, write_locoprop_report
from vicreg_jax.tasks.task import HERE, Findings, Outcome, Site, Task
from vicreg_jax.training.step import Metrics


class TrainAutoencoder(Task[LocoPropExperiment]):
    """LocoProp's deep autoencoder."""

    shown = ("loss", "train_loss", "test_loss", "learning_rate", "images_per_second")
    final_metrics = ()  # the loss of the summary is that of all images
    memory_remedy = "Lower config.train.batch_size or config.model.widths, or raise config.mesh.fsdp."
    nonfinite_remedy = "Lower config.optim.base_lr or config.method.activation_rate, in a new --workdir."

    def __init__(self, experiment: LocoPropExperiment):
        super().__init__(experiment)
        data = experiment.train_data
        rows = jnp.zeros((experiment.plan.batch_size, data.canvas**2 * data.channels))
        self._example = rows, rows
        self._layers = experiment.training.layers(self._example) if isinstance(experiment.training, LocoProp) else []
        self._assessment = Assessment(experiment)

    @classmethod
    def table(cls, method: str) -> Table:
        """See `Task`."""
        return locoprop_table(method)

    @classmethod
    def from_config(cls, config: ConfigDict, site: Site = HERE) -> "TrainAutoencoder":
        """See `Task`."""
        return cls(build(config, site))

    @property
    def name(self) -> str:
        """See `Task`."""
        return self.experiment.method

    def init(self, key: Array) -> Any:
        """See `Task`."""
        return self.experiment.training.init(key, self._example)

    def describe(self, shapes: Any) -> list[str]:
        """See `Task`."""
        model = self.experiment.config.model
        widths = "-".join(map(str, (*model.widths, model.code, *reversed(model.widths))))
        count = count_parameters({"params": shapes.params})
        lines = [f"model   autoencoder {widths}, {model.transfer}, {count / 1e6:.2f} M parameters"]
        if self._layers:
            local = (f"{layer.name} {layer.transfer}" + " (Gram)" * (layer.form == "gram") for layer in self._layers)
            lines.append(f"losses  {', '.join(local)}")
        return lines

    def step(self, state: Any, batch: Batch) -> tuple[Any, Metrics]:
        """See `Task`."""
        rows = rows_of(batch["image"])
        return self.experiment.training.step(state, (rows, rows))

    def evaluate(self, state: Any) -> dict[str, float]:
        """See `Task`: the loss on all images of both splits."""
        return self._assessment.losses(state.params)

    def assess(self, state: Any, initial: Any) -> Findings:
        """See `Task`."""
        return self._assessment.assess(state.params, initial.params)

    def headline(self, summary: Mapping[str, Any]) -> str:
        """See `Task`."""
        return (
            f"loss {summary['loss']:.2f} on all training images, {summary['test_loss']:.2f} on the test images "
            f"({summary['baselines']['random_init']['loss']:.2f} before training)"
        )

    def write_report(self, path: Path, outcome: Outcome) -> None:
        """See `Task`."""
        content = LocoPropReport(
            summary=outcome.summary,
            config=self.config_fields,
            metrics=outcome.metrics,
            layers=self._layers,
            reconstructions=outcome.exhibits.reconstructions,
            neighbors=outcome.exhibits.neighbors,
            class_names=self.experiment.train_data.class_names,
        )
        write_locoprop_report(path, content)
