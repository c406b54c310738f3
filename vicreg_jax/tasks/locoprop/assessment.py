"""What a trained autoencoder is worth: its loss on all images, what its code is good for, what it makes of images."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vicreg_jax.augment import central_view
from vicreg_jax.data import Dataset, evaluation_batches, is_resident
from vicreg_jax.evaluation.features import extract_features, raw_pixel_features
from vicreg_jax.report import NeighborGrid
from vicreg_jax.tasks.locoprop.build import LocoPropExperiment, rows_of
from vicreg_jax.tasks.pretrain.assessment import Features, accuracies, neighbor_grid
from vicreg_jax.training.mesh import replicated

_PICTURED = 10  # test images whose reconstructions are shown
_RAW_PIXELS_SIZE = 32  # side, at most, of what the classifiers are given


class Reconstructions(NamedTuple):
    """Test images and what becomes of them, uint8 `[images, height, width, channels]` each."""

    originals: np.ndarray
    before: np.ndarray
    after: np.ndarray


class Assessment:
    """Evaluates parameters of one experiment's network. Several processes must call each method together."""

    def __init__(self, experiment: LocoPropExperiment):
        self._experiment = experiment
        self._splits = experiment.train_data, experiment.test_data

        @jax.jit
        def losses_and_codes(params: Any, batch: dict[str, Array]) -> Array:
            # Beside each other, so that images go through the network once.
            rows = rows_of(batch["image"])
            logits, sown = experiment.model.apply({"params": params}, rows, mutable=["intermediates"])
            losses = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, rows), axis=-1, keepdims=True)
            return jnp.concatenate([losses, sown["intermediates"]["code"][0]], axis=1)

        self._losses_and_codes = losses_and_codes

    def losses(self, params: Any) -> dict[str, float]:
        """The loss on all images of either split: `train_loss` and `test_loss`, means over images."""
        return {
            f"{name}_loss": self._loss_and_codes(params, split)[0]
            for name, split in zip(("train", "test"), self._splits, strict=True)
        }

    def assess(self, params: Any, initial: Any) -> tuple[dict[str, Any], NeighborGrid, Reconstructions]:
        """All that is said of trained parameters at the end, beside the `initial` ones.

        Returns:
          `loss` on the training and `test_loss` on the test split, and the accuracies of the codes, with those of raw
          pixels and of the initial network under `baselines`, as `summary.json` holds them (None without labels); and
          pictures.
        """
        results, train, test = self._results(params)
        baselines = {"random_init": self._results(initial)[0]}
        if results["knn_accuracy"] is not None:
            baselines = {"raw_pixels": self._accuracies(*map(self._raw_pixels, self._splits))} | baselines
        neighbors = neighbor_grid(*self._splits, train, test, self._experiment.sharding)
        return results | {"baselines": baselines}, neighbors, self._reconstructions(params, initial)

    def _results(self, params: Any) -> tuple[dict[str, Any], Features, Features]:
        (loss, train), (test_loss, test) = (self._loss_and_codes(params, split) for split in self._splits)
        return {"loss": loss, "test_loss": test_loss} | self._accuracies(train, test), train, test

    def _loss_and_codes(self, params: Any, dataset: Dataset) -> tuple[float, Features]:
        found, labels = extract_features(self._losses_and_codes, params, self._batches(dataset))
        return float(np.mean(found[:, 0], dtype=np.float64)), (np.ascontiguousarray(found[:, 1:]), labels)

    def _batches(self, dataset: Dataset) -> Any:
        config = self._experiment.config
        return evaluation_batches(
            dataset,
            batch_size=config.evaluation.batch_size,
            sharding=self._experiment.sharding,
            resident=is_resident(dataset, config.data.placement),
            workers=config.data.workers,
        )

    def _raw_pixels(self, dataset: Dataset) -> Features:
        size = min(self._experiment.config.data.image_size, _RAW_PIXELS_SIZE)
        view = partial(central_view, image_size=size, crop_fraction=1.0, mean=(0.0,), std=(1.0,))
        return raw_pixel_features(self._batches(dataset), view)

    def _accuracies(self, train: Features, test: Features) -> dict[str, Any]:
        return accuracies(self._experiment.config, self._splits, train, test, self._experiment.sharding)

    def _reconstructions(self, params: Any, initial: Any) -> Reconstructions:
        data = self._experiment.test_data
        # Spread over the split, which may be sorted by class.
        indices = np.linspace(0, len(data) - 1, min(_PICTURED, len(data))).astype(int)
        originals = np.stack([data[int(index)]["image"] for index in indices])

        @partial(jax.jit, out_shardings=replicated(self._experiment.mesh))
        def reconstruct(params: Any) -> Array:
            logits: Any = self._experiment.model.apply({"params": params}, rows_of(jnp.asarray(originals)))
            return jnp.round(255 * jax.nn.sigmoid(logits)).astype(jnp.uint8)

        before, after = (np.asarray(reconstruct(each)).reshape(originals.shape) for each in (initial, params))
        return Reconstructions(originals, before, after)
