"""The final evaluation of a pretrained state: accuracies beside the baselines, and the exhibits of the report."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.augment import central_view
from vicreg_jax.data import Batch, Dataset
from vicreg_jax.evaluation import LabeledFeatures, extract_features
from vicreg_jax.evaluation.diagnostics import gram_matrix, spectrum_on_host
from vicreg_jax.tasks.features import SplitEvaluation, view_grid
from vicreg_jax.tasks.pretrain.build import PretrainExperiment
from vicreg_jax.tasks.task import Findings
from vicreg_jax.training.state import TrainState

_SPECTRUM_IMAGES = 512


class Assessment:
    """Evaluates states of one experiment. Several processes must call each method together."""

    def __init__(self, experiment: PretrainExperiment):
        self._experiment = experiment
        self._evaluation = SplitEvaluation(experiment)
        method, preprocessing = experiment.method, experiment.preprocessing

        def features(variables: Any, batch: Batch) -> jax.Array:
            images = central_view(batch["image"], batch["aspect_ratio"], preprocessing)
            found: Any = method.backbone.apply(variables, images, train=False)
            return found

        def embeddings(variables: tuple[Any, Any], batch: Batch) -> jax.Array:
            images = central_view(batch["image"], batch["aspect_ratio"], preprocessing)
            return method.embed(*variables, images)[1]

        self._features_of, self._embeddings_of = jax.jit(features), jax.jit(embeddings)

    def lower_features(self, shapes: TrainState, shardings: TrainState) -> jax.stages.Lowered:
        """The features of a batch, to be compiled for states of these shapes and shardings."""
        experiment, data = self._experiment, self._experiment.evaluation_train_data
        rows = self._evaluation.batch_size(experiment.config.evaluation.batch_size)
        batch = {
            "image": jax.ShapeDtypeStruct(
                (rows, data.canvas, data.canvas, data.channels), jnp.uint8, sharding=experiment.sharding
            ),
            "aspect_ratio": jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=experiment.sharding),
        }
        placed = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            _backbone_of(shapes),
            _backbone_of(shardings),
        )
        return self._features_of.lower(placed, batch)

    def knn_accuracy(self, state: TrainState) -> dict[str, float]:
        """`knn_accuracy` on the test split, as taken while training; empty without labels."""
        if self._evaluation.num_classes is None:
            return {}
        return self._evaluation.knn_accuracy(*(self._features(state, split) for split in self._evaluation.splits))

    def assess(self, state: TrainState, initial: TrainState, given: TrainState | None = None) -> Findings:
        """The accuracies of a trained state, beside those of raw pixels and the initial state; the exhibits.

        Args:
            state: after the last step.
            initial: with random weights.
            given: with the weights that training started from, if it was not `initial`.

        Returns:
            The accuracies, with `baselines`, as `summary.json` holds them (None without labels); and fields of
            `PretrainReport`.
        """
        evaluation, experiment = self._evaluation, self._experiment
        train, test = (self._features(state, split) for split in evaluation.splits)
        results = evaluation.accuracies(train, test)
        baselines = None
        if results["knn_accuracy"] is not None:
            baselines = {
                "raw_pixels": evaluation.raw_pixel_accuracies(
                    experiment.config.evaluation.batch_size, experiment.preprocessing.central_fraction
                ),
                "random_init": evaluation.accuracies(*(self._features(initial, split) for split in evaluation.splits)),
            }
            if given is not None:
                baselines["given_weights"] = evaluation.accuracies(
                    *(self._features(given, split) for split in evaluation.splits)
                )
        exhibits = {
            "spectrum": self._spectrum(state),
            "views": view_grid(experiment, initial.key, experiment.views, experiment.preprocessing),
            "neighbors": evaluation.neighbor_grid(train, test),
        }
        return Findings(results | {"baselines": baselines, "skipped_updates": int(state.skipped)}, exhibits)

    def _batches(self, dataset: Dataset) -> Iterator[Batch]:
        return self._evaluation.batches(dataset, self._experiment.config.evaluation.batch_size)

    def _features(self, state: TrainState, dataset: Dataset) -> LabeledFeatures:
        return extract_features(self._features_of, _backbone_of(state), self._batches(dataset))

    def _spectrum(self, state: TrainState) -> np.ndarray:
        batches = self._batches(self._experiment.train_data)
        embeddings: list[np.ndarray] = []
        while sum(map(len, embeddings)) < _SPECTRUM_IMAGES and (batch := next(batches, None)) is not None:
            embeddings.append(
                extract_features(self._embeddings_of, (state.params, state.batch_stats), [batch]).features
            )
        return spectrum_on_host(np.asarray(gram_matrix(jnp.concatenate(embeddings))))


def _backbone_of(state: TrainState) -> dict[str, Any]:
    return {"params": state.params["backbone"], "batch_stats": state.batch_stats["backbone"]}
