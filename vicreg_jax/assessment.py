"""What a state of a run has learned: accuracies, beside those of raw pixels and of a random network, and pictures."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.augment import central_view, denormalise, make_views
from vicreg_jax.data import Dataset, evaluation_batches, is_resident
from vicreg_jax.evaluation.diagnostics import spectrum
from vicreg_jax.evaluation.features import extract_features, raw_pixel_features
from vicreg_jax.evaluation.knn import knn_accuracy, nearest_neighbours
from vicreg_jax.evaluation.protocol import evaluate_features
from vicreg_jax.evaluation.report import NeighbourGrid, ViewGrid
from vicreg_jax.experiment import Experiment
from vicreg_jax.training.mesh import batch_sharding
from vicreg_jax.training.state import TrainState

Features = tuple[np.ndarray, np.ndarray]  # features [images, feature_dim] float32, labels [images] int32

_PICTURED = 8  # images in each of the report's grids
_SPECTRUM_IMAGES = 512
_RAW_PIXELS_SIZE = 32  # side, at most: a classifier of more pixels takes longer than the network


class Assessment:
    """Evaluates states of one experiment; what does not depend on the state is computed once."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._sharding = batch_sharding(experiment.mesh)
        self._apply = jax.jit(experiment.features())
        self._embed = jax.jit(experiment.embeddings())
        data = (experiment.train_data, experiment.test_data)
        # Both splits need labels: without them there are no accuracies.
        self._num_classes = None if any(split.num_classes is None for split in data) else data[0].num_classes

    def _batches(self, dataset: Dataset) -> Any:
        config = self._experiment.config
        # A multiple of the devices, so that each has as many rows.
        batch_size = -(-config.evaluation.batch_size // self._sharding.num_devices) * self._sharding.num_devices
        return evaluation_batches(
            dataset,
            batch_size=batch_size,
            sharding=self._sharding,
            resident=is_resident(dataset, config.data.placement),
            workers=config.data.workers,
        )

    def features(self, state: TrainState, dataset: Dataset) -> Features:
        """The backbone's features of a split's central views, and its labels."""
        variables = {"params": state.params["backbone"], "batch_stats": state.batch_stats["backbone"]}
        return extract_features(self._apply, variables, self._batches(dataset))

    def knn_accuracy(self, state: TrainState) -> dict[str, float]:
        """The kNN accuracy on the test split: what is looked at while training."""
        if self._num_classes is None:
            return {}
        experiment = self._experiment
        evaluation = experiment.config.evaluation
        accuracy = knn_accuracy(
            *self.features(state, experiment.train_data),
            *self.features(state, experiment.test_data),
            num_classes=self._num_classes,
            neighbours=evaluation.knn_neighbours,
            temperature=evaluation.knn_temperature,
        )
        return {"knn_accuracy": float(accuracy)}

    def _accuracies(self, num_classes: int, train: Features, test: Features) -> dict[str, Any]:
        evaluation = self._experiment.config.evaluation
        return evaluate_features(
            *train,
            *test,
            num_classes=num_classes,
            neighbours=evaluation.knn_neighbours,
            temperature=evaluation.knn_temperature,
            labels_per_class=evaluation.labels_per_class,
            draws=evaluation.draws,
            seed=self._experiment.config.seed,
        )

    def _raw_pixels(self, dataset: Dataset) -> Features:
        # The baseline that costs nothing.
        preprocessing = self._experiment.preprocessing
        size = min(preprocessing.image_size, _RAW_PIXELS_SIZE)
        unnormalised = dataclasses.replace(preprocessing, image_size=size, mean=(0.0,), std=(1.0,))
        return raw_pixel_features(self._batches(dataset), unnormalised.central_view)

    def results(self, state: TrainState, initial: TrainState) -> dict[str, Any]:
        """What the summary says of a trained state: its accuracies, and those of raw pixels and of `initial`.

        Without labels they are None.
        """
        if self._num_classes is None:
            return {
                "knn_accuracy": None,
                "linear_accuracy": None,
                "few_label_accuracy": None,
                "baselines": None,
            }
        split = (self._experiment.train_data, self._experiment.test_data)

        def accuracies(features: Iterable[Features]) -> dict[str, Any]:
            return self._accuracies(num_classes, *features)

        num_classes = self._num_classes
        return accuracies(self.features(state, data) for data in split) | {
            "baselines": {
                "raw_pixels": accuracies(self._raw_pixels(data) for data in split),
                "random_init": accuracies(self.features(initial, data) for data in split),
            }
        }

    def pictures(self, state: TrainState) -> dict[str, Any]:
        """What the report shows of a state, as arguments of `ReportContent`. Every process must call it."""
        return {
            "spectrum": self._spectrum(state),
            "views": self._view_grid(),
            "neighbours": self._neighbour_grid(state),
        }

    def _spectrum(self, state: TrainState) -> np.ndarray:
        batches = self._batches(self._experiment.train_data)
        embeddings: list[np.ndarray] = []
        while sum(map(len, embeddings)) < _SPECTRUM_IMAGES and (batch := next(batches, None)) is not None:
            z, _ = extract_features(self._embed, (state.params, state.batch_stats), [batch])
            embeddings.append(z)
        return np.asarray(spectrum(jnp.concatenate(embeddings)))

    def _view_grid(self) -> ViewGrid:
        experiment = self._experiment
        originals = [experiment.train_data[i] for i in range(min(_PICTURED, len(experiment.train_data)))]
        preprocessing = experiment.preprocessing
        views = jax.jit(make_views, static_argnames=("views", "image_size", "mean", "std"))(
            jax.random.key(experiment.config.seed),
            np.stack([example["image"] for example in originals]),
            np.stack([example["aspect_ratio"] for example in originals]),
            views=experiment.views,
            image_size=preprocessing.image_size,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )
        return ViewGrid(
            np.stack([_picture(example) for example in originals]),
            [np.asarray(denormalise(view, preprocessing.mean, preprocessing.std)) for view in views],
        )

    def _neighbour_grid(self, state: TrainState) -> NeighbourGrid:
        train, test = self._experiment.train_data, self._experiment.test_data
        train_features, train_labels = self.features(state, train)
        test_features, test_labels = self.features(state, test)
        # Spread over the split, which may be sorted by class.
        queries = np.linspace(0, len(test) - 1, min(_PICTURED, len(test))).astype(int)
        near = nearest_neighbours(train_features, test_features[queries], neighbours=5)
        indices = np.asarray(near.indices)
        return NeighbourGrid(
            queries=np.stack([_picture(test[int(i)]) for i in queries]),
            neighbours=np.stack([np.stack([_picture(train[int(j)]) for j in row]) for row in indices]),
            query_labels=test_labels[queries] if self._num_classes else None,
            neighbour_labels=train_labels[indices] if self._num_classes else None,
            similarities=np.asarray(near.similarities),
        )


def _picture(example: dict[str, Any]) -> np.ndarray:
    """The centred square of an image, as a person would see it: a canvas is stretched where the image is not square."""
    image, aspect_ratio = example["image"], example["aspect_ratio"]
    if aspect_ratio == 1:
        return image
    view = central_view(
        image[None], aspect_ratio[None], image_size=len(image), crop_fraction=1.0, mean=(0.0,), std=(1.0,)
    )
    return np.asarray(denormalise(view, (0.0,), (1.0,)))[0]
