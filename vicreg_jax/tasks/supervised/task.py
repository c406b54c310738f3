"""What the tasks `finetune` and `linear` have in common: given weights, accuracies on a split, the files of a run."""

import abc
import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from vicreg_jax.augment import central_view, make_views
from vicreg_jax.data import Batch, Dataset
from vicreg_jax.encoder import Weights, read_backbone
from vicreg_jax.evaluation import extract_features, label_ranks
from vicreg_jax.methods.joint_embedding import merge_weights
from vicreg_jax.models import count_parameters
from vicreg_jax.tasks.features import SplitEvaluation, labeled, view_grid
from vicreg_jax.tasks.supervised.build import SupervisedExperiment
from vicreg_jax.tasks.supervised.report import SupervisedReport, write_supervised_report
from vicreg_jax.tasks.tables import show_classifier_accuracies
from vicreg_jax.tasks.task import Findings, Outcome, Task
from vicreg_jax.tasks.weights import read_weights
from vicreg_jax.training.state import TrainState

BACKBONE = "backbone"  # the part that `load_encoder` reads


class Supervised(Task[SupervisedExperiment]):
    """Training of classifiers on a backbone, with labels. The state is a `TrainState`; a subclass names its parts."""

    shown = ("loss", "train_accuracy", "learning_rate", "images_per_second")
    memory_remedy = "Set config.train.remat or config.mesh.fsdp, or lower config.train.batch_size."

    def __init__(self, experiment: SupervisedExperiment):
        super().__init__(experiment)
        self._weights: dict[str, Weights] | None = None

        @jax.jit
        def ranks(state: TrainState, batch: Batch) -> jax.Array:
            images = central_view(batch["image"], batch["aspect_ratio"], experiment.preprocessing)
            logits = self.logits(state.params, state.batch_stats, images)
            labels = jnp.broadcast_to(jnp.maximum(batch["label"], 0), logits.shape[:2])
            return label_ranks(logits, labels).T

        self._ranks = ranks

    @abc.abstractmethod
    def logits(self, params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        """The logits of every classifier, `[classifiers, batch, classes]`, with BatchNorm's running statistics."""

    @property
    def name(self) -> str:
        """See `Task`."""
        return self.experiment.config.method.name

    def weights(self) -> dict[str, Weights]:
        """See `Task`."""
        if self._weights is None:
            experiment = self.experiment
            size, _, channels = experiment.image_shape
            read = partial(read_backbone, backbone=experiment.backbone, image_size=size, channels=channels)
            found = read_weights(experiment.config, "init_from", read)
            self._weights = {} if found is None else {BACKBONE: found}
        return self._weights

    def start(self, state: TrainState, shardings: Any) -> TrainState:
        """See `Task`."""
        if not self.weights():
            return state

        @partial(jax.jit, out_shardings=shardings, donate_argnums=0)
        def replace(state: TrainState, given: Any) -> TrainState:
            params = {**state.params, BACKBONE: merge_weights(state.params[BACKBONE], given["params"])}
            batch_stats = {
                **state.batch_stats,
                BACKBONE: merge_weights(state.batch_stats[BACKBONE], given["batch_stats"]),
            }
            return dataclasses.replace(state, params=params, batch_stats=batch_stats)

        return replace(state, self.weights()[BACKBONE].variables)

    def init_backbone(self, key: jax.Array) -> tuple[Any, Any]:
        """Random parameters of the backbone, and its running statistics."""
        images = jnp.zeros((1, *self.experiment.image_shape), jnp.float32)
        variables = self.experiment.backbone.init(key, images, train=False)
        return variables["params"], variables.get("batch_stats", {})

    def random_view(self, key: jax.Array, batch: Batch) -> jax.Array:
        """One random view of every image, with number 0 of the step's key."""
        experiment = self.experiment
        with jax.named_scope("augmentation"):
            (images,) = make_views(
                key,
                batch["image"],
                batch["aspect_ratio"],
                (experiment.view,),
                experiment.preprocessing,
                mesh=experiment.mesh,
            )
        return images

    def describe(self, shapes: TrainState) -> list[str]:
        """See `Task`."""
        experiment, config = self.experiment, self.experiment.config
        count = count_parameters({"params": shapes.params[BACKBONE]})
        lines = [f"model   {config.model.name}: {count / 1e6:.2f} M parameters, {config.train.precision}"]
        if config.model.init_from is None and config.model.init_digest is None:
            lines.append("weights of the backbone: random (model.init_from names others)")
        used, whole = len(experiment.train_data), len(experiment.whole_train_data)
        if used < whole:
            lines.append(f"labels  {used} of {whole} training images: {experiment.train_data.split}")
        return lines

    def ranks(self, state: TrainState, dataset: Dataset) -> np.ndarray:
        """The rank of the label of every labeled image for every classifier: `[images, classifiers]`."""
        batches = SplitEvaluation.of(self.experiment).batches(dataset, self.experiment.config.evaluation.batch_size)
        return labeled(extract_features(self._ranks, state, batches)).features

    def lower_evaluation(self, shapes: TrainState, shardings: Any) -> dict[str, jax.stages.Lowered]:
        """See `Task`: the ranks of a batch."""
        experiment, data = self.experiment, self.experiment.test_data
        rows = SplitEvaluation.of(experiment).batch_size(experiment.config.evaluation.batch_size)

        def placed(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=experiment.sharding)

        batch = {
            "image": placed((rows, data.canvas, data.canvas, data.channels), jnp.uint8),
            "aspect_ratio": placed((rows,), jnp.float32),
            "label": placed((rows,), jnp.int32),
        }
        state = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )
        return {"accuracy": self._ranks.lower(state, batch)}

    @abc.abstractmethod
    def results(self, state: TrainState) -> dict[str, Any]:
        """`accuracy`, `top5_accuracy` and `baselines`, as in `summary.json`; every process calls it."""

    def assess(self, state: TrainState, initial: TrainState) -> Findings:
        """See `Task`."""
        experiment = self.experiment
        results = self.results(state) | {
            "train_labels": len(experiment.train_data),
            "init_from": experiment.config.model.init_digest,
        }
        return Findings(results, view_grid(experiment, initial.key, (experiment.view,), experiment.preprocessing))

    def show_accuracies(self, console: Console, summary: Mapping[str, Any]) -> None:
        """See `Task`."""
        show_classifier_accuracies(console, summary)

    def write_report(self, path: Path, outcome: Outcome) -> None:
        """See `Task`."""
        content = SupervisedReport(
            title=f"{self.name} on {self.experiment.config.data.name}",
            summary=outcome.summary,
            config=self.config_fields,
            metrics=outcome.metrics,
            views=outcome.exhibits,
            warnings=self.experiment.train_data.warnings,
        )
        write_supervised_report(path, content)


def first_state(key: jax.Array, params: Any, batch_stats: Any, opt_state: Any) -> TrainState:
    """The state before the first step, with the key that the steps draw from."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        extra_state={},
        opt_state=opt_state,
        probe=None,
        skipped=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
    )
