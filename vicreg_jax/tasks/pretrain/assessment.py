"""The final evaluation of a pretrained state: accuracies beside the baselines, and the exhibits of the report."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.augment import central_view
from vicreg_jax.data import Batch, Dataset
from vicreg_jax.evaluation import LabeledFeatures, extract_features
from vicreg_jax.evaluation.diagnostics import gram_matrix, spectrum_on_host
from vicreg_jax.tasks.features import SplitEvaluation, TrainFeatures, network_features, view_grid
from vicreg_jax.tasks.label_free import LabelFree
from vicreg_jax.tasks.pretrain.build import PretrainExperiment
from vicreg_jax.tasks.task import Findings
from vicreg_jax.tasks.transfer import transfer_results
from vicreg_jax.training.state import TrainState, backbone_of

_SPECTRUM_IMAGES = 512


class Assessment:
    """Evaluates states of one experiment. Several processes must call each method together."""

    def __init__(self, experiment: PretrainExperiment):
        self._experiment = experiment
        self._evaluation = SplitEvaluation.of(experiment)
        method, preprocessing = experiment.method, experiment.preprocessing

        def embed(variables: tuple[Any, Any], images: jax.Array) -> jax.Array:
            return method.embed(*variables, images)[1]

        def embeddings(variables: tuple[Any, Any], batch: Batch) -> jax.Array:
            return embed(variables, central_view(batch["image"], batch["aspect_ratio"], preprocessing))

        self._features_of = network_features(method.backbone, preprocessing)
        self._embeddings_of = jax.jit(embeddings)
        self._label_free = LabelFree(embed, "embeddings", experiment.views, preprocessing)

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
            backbone_of(shapes),
            backbone_of(shardings),
        )
        return self._features_of.lower(placed, batch)

    def knn_accuracy(self, state: TrainState) -> dict[str, float]:
        """`knn_accuracy` on the test split, as taken while training; empty without labels."""
        if self._evaluation.num_classes is None:
            return {}
        return self._evaluation.knn_accuracy(*self._features(state, self._evaluation))

    def assess(self, state: TrainState, initial: TrainState, given: TrainState | None = None) -> Findings:
        """The accuracies of a trained state, beside those of raw pixels and the initial state; the exhibits.

        Args:
            state: after the last step.
            initial: with random weights.
            given: with the weights that training started from, if it was not `initial`.

        Returns:
            The accuracies, with `baselines`, as `summary.json` holds them (None without labels), `label_free`, and
            `transfer`: the accuracies on other datasets; and fields of `PretrainReport`.
        """
        evaluation, experiment = self._evaluation, self._experiment
        trained = functools.partial(self._features, state)
        others = {"random_init": functools.partial(self._features, initial)}
        if given is not None:
            others["given_weights"] = functools.partial(self._features, given)
        central_fraction = experiment.preprocessing.central_fraction
        exhibits: dict[str, Any] = {
            "spectrum": self._spectrum(state),
            "views": view_grid(experiment, initial.key, experiment.views, experiment.preprocessing),
        }

        def trained_with_neighbors(evaluation: SplitEvaluation) -> tuple[TrainFeatures, LabeledFeatures]:
            features = trained(evaluation)
            exhibits["neighbors"] = evaluation.neighbor_grid(*features)  # before they leave the devices
            return features

        results = evaluation.beside_baselines(trained_with_neighbors, others, central_fraction) | {
            "label_free": self._label_free.metrics(evaluation, _network_of(state), experiment.train_data),
            "transfer": {
                name: transfer_results(
                    SplitEvaluation(experiment.config, experiment.mesh, *splits), trained, others, central_fraction
                )
                for name, splits in experiment.transfer.items()
            },
            "skipped_updates": int(state.skipped),
        }
        return Findings(results, exhibits)

    def _batches(self, dataset: Dataset) -> Iterator[Batch]:
        return self._evaluation.batches(dataset, self._experiment.config.evaluation.batch_size)

    def _features(self, state: TrainState, evaluation: SplitEvaluation) -> tuple[TrainFeatures, LabeledFeatures]:
        return evaluation.features(self._features_of, backbone_of(state))

    def _spectrum(self, state: TrainState) -> np.ndarray:
        batches = self._batches(self._experiment.train_data)
        embeddings: list[np.ndarray] = []
        while sum(map(len, embeddings)) < _SPECTRUM_IMAGES and (batch := next(batches, None)) is not None:
            embeddings.append(extract_features(self._embeddings_of, _network_of(state), [batch]).features)
        return spectrum_on_host(np.asarray(gram_matrix(jnp.concatenate(embeddings))))


def _network_of(state: TrainState) -> tuple[Any, Any]:
    return state.params, state.batch_stats
