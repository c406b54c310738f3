"""What a trained autoencoder is worth: its loss on all images, the accuracies of its code, its reconstructions."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vicreg_jax.data import Batch, Dataset
from vicreg_jax.evaluation import LabeledFeatures, extract_features
from vicreg_jax.report import NeighborGrid
from vicreg_jax.tasks.features import SplitEvaluation, evenly_spaced
from vicreg_jax.tasks.locoprop.build import LocoPropExperiment, rows_of
from vicreg_jax.tasks.locoprop.report import Reconstructions
from vicreg_jax.tasks.task import Findings
from vicreg_jax.training.mesh import replicated

_PICTURED = 10  # test images whose reconstructions are shown


class Exhibits(NamedTuple):
    """The pictures of the report."""

    reconstructions: Reconstructions
    neighbors: NeighborGrid


class Assessment:
    """Evaluates parameters of one experiment's network. Several processes must call each method together."""

    def __init__(self, experiment: LocoPropExperiment):
        self._experiment = experiment
        self._evaluation = SplitEvaluation.of(experiment)

        @jax.jit
        def losses_and_codes(params: Any, batch: Batch) -> Array:
            # Side by side, so that images go through the network once.
            rows = rows_of(batch["image"])
            logits, sown = experiment.model.apply({"params": params}, rows, mutable=["intermediates"])
            losses = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, rows), axis=-1, keepdims=True)
            return jnp.concatenate([losses, sown["intermediates"]["code"][0]], axis=1)

        self._losses_and_codes = losses_and_codes

    def losses(self, params: Any) -> dict[str, float]:
        """`train_loss` and `test_loss`: means over all images of either split."""
        train, test = (self._loss_and_codes(params, split)[0] for split in self._evaluation.splits)
        return {"train_loss": train, "test_loss": test}

    def assess(self, params: Any, initial: Any) -> Findings:
        """The final evaluation of trained parameters, beside the initial ones.

        Returns:
            `loss` on the training and `test_loss` on the test split and the accuracies of the codes, with those of raw
            pixels and of the initial network under `baselines`, as `summary.json` holds them (None without labels);
            and `Exhibits`.
        """
        results, train, test = self._results(params)
        baselines = {"random_init": self._results(initial)[0]}
        if results["knn_accuracy"] is not None:
            batch_size = self._experiment.config.evaluation.batch_size
            baselines = {"raw_pixels": self._evaluation.raw_pixel_accuracies(batch_size)} | baselines
        neighbors = self._evaluation.neighbor_grid(train, test)
        exhibits = Exhibits(self._reconstructions(params, initial), neighbors)
        return Findings(results | {"baselines": baselines}, exhibits)

    def _results(self, params: Any) -> tuple[dict[str, Any], LabeledFeatures, LabeledFeatures]:
        (loss, train), (test_loss, test) = (self._loss_and_codes(params, split) for split in self._evaluation.splits)
        return {"loss": loss, "test_loss": test_loss} | self._evaluation.accuracies(train, test), train, test

    def _loss_and_codes(self, params: Any, dataset: Dataset) -> tuple[float, LabeledFeatures]:
        batches = self._evaluation.batches(dataset, self._experiment.config.evaluation.batch_size)
        found, labels = extract_features(self._losses_and_codes, params, batches)
        codes = LabeledFeatures(np.ascontiguousarray(found[:, 1:]), labels)
        return float(np.mean(found[:, 0], dtype=np.float64)), codes

    def _reconstructions(self, params: Any, initial: Any) -> Reconstructions:
        data = self._experiment.test_data
        originals = np.stack([data[int(index)]["image"] for index in evenly_spaced(len(data), _PICTURED)])

        @partial(jax.jit, out_shardings=replicated(self._experiment.mesh))
        def reconstruct(params: Any) -> Array:
            logits: Any = self._experiment.model.apply({"params": params}, rows_of(jnp.asarray(originals)))
            return jnp.round(255 * jax.nn.sigmoid(logits)).astype(jnp.uint8)

        before, after = (np.asarray(reconstruct(each)).reshape(originals.shape) for each in (initial, params))
        return Reconstructions(originals, before, after)
