"""What a state of a run has learned: accuracies, beside those of raw pixels and of a random network, and pictures."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from vicreg_jax.augment import central_view, denormalize, make_views
from vicreg_jax.data import Dataset, evaluation_batches, is_resident, step_indices
from vicreg_jax.evaluation.diagnostics import spectrum
from vicreg_jax.evaluation.features import extract_features, raw_pixel_features
from vicreg_jax.evaluation.knn import knn_accuracy, nearest_neighbors
from vicreg_jax.evaluation.protocol import evaluate_features
from vicreg_jax.report import NeighborGrid, ViewGrid
from vicreg_jax.tasks.pretrain.build import Experiment
from vicreg_jax.training.mesh import batch_sharding
from vicreg_jax.training.state import TrainState, step_key

Features = tuple[np.ndarray, np.ndarray]  # features [images, feature_dim] float32, labels [images] int32

_PICTURED = 8  # images in each of the report's grids
_SPECTRUM_IMAGES = 512
_RAW_PIXELS_SIZE = 32  # side, at most: a classifier of more pixels takes longer than the network


class Assessment:
    """Evaluates states of one experiment. Several processes must call each method together."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._sharding = batch_sharding(experiment.mesh)
        self._apply = jax.jit(experiment.features())
        self._embed = jax.jit(experiment.embeddings())
        self._splits = (experiment.train_data, experiment.test_data)
        # Without labels in both splits there are no accuracies.
        unlabeled = any(split.num_classes is None for split in self._splits)
        self._num_classes = None if unlabeled else experiment.train_data.num_classes

    def knn_accuracy(self, state: TrainState) -> dict[str, float]:
        """The kNN accuracy on the test split: what is looked at while training. Empty without labels."""
        if self._num_classes is None:
            return {}
        train, test = (labeled(self._features(state, split)) for split in self._splits)
        if not (len(train[1]) and len(test[1])):
            return {}
        evaluation = self._experiment.config.evaluation
        accuracy = knn_accuracy(
            *train,
            *test,
            num_classes=self._num_classes,
            neighbors=evaluation.knn_neighbors,
            temperature=evaluation.knn_temperature,
            sharding=self._sharding,
        )
        return {"knn_accuracy": float(accuracy)}

    def assess(self, state: TrainState, initial: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
        """All that is said of a trained state at the end.

        Args:
          state: the trained one.
          initial: the one before the first step, for the baseline of a random network.

        Returns:
          Accuracies, with those of raw pixels and of `initial` under `baselines`, as `summary.json` holds them (None
          without labels); and pictures, as arguments of `ReportContent`.
        """
        train, test = (self._features(state, split) for split in self._splits)
        results = self._accuracies(train, test)
        baselines = None
        if results["knn_accuracy"] is not None:
            baselines = {
                "raw_pixels": self._accuracies(*map(self._raw_pixels, self._splits)),
                "random_init": self._accuracies(*(self._features(initial, split) for split in self._splits)),
            }
        pictures = {
            "spectrum": self._spectrum(state),
            "views": self._view_grid(initial),
            "neighbors": neighbor_grid(*self._splits, train, test, self._sharding),
        }
        return results | {"baselines": baselines}, pictures

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

    def _features(self, state: TrainState, dataset: Dataset) -> Features:
        variables = {"params": state.params["backbone"], "batch_stats": state.batch_stats["backbone"]}
        return extract_features(self._apply, variables, self._batches(dataset))

    def _raw_pixels(self, dataset: Dataset) -> Features:
        # The baseline that costs nothing.
        preprocessing = self._experiment.preprocessing
        size = min(preprocessing.image_size, _RAW_PIXELS_SIZE)
        unnormalized = dataclasses.replace(preprocessing, image_size=size, mean=(0.0,), std=(1.0,))
        return raw_pixel_features(self._batches(dataset), unnormalized.central_view)

    def _accuracies(self, train: Features, test: Features) -> dict[str, Any]:
        return accuracies(self._experiment.config, self._splits, train, test, self._sharding)

    def _spectrum(self, state: TrainState) -> np.ndarray:
        batches = self._batches(self._experiment.train_data)
        embeddings: list[np.ndarray] = []
        while sum(map(len, embeddings)) < _SPECTRUM_IMAGES and (batch := next(batches, None)) is not None:
            z, _ = extract_features(self._embed, (state.params, state.batch_stats), [batch])
            embeddings.append(z)
        return np.asarray(spectrum(jnp.concatenate(embeddings)))

    def _view_grid(self, initial: TrainState) -> ViewGrid:
        # The first images of the first step, with the views that the network really was given.
        experiment = self._experiment
        data, config, preprocessing = experiment.train_data, experiment.config, experiment.preprocessing
        indices = step_indices(len(data), config.train.batch_size, config.seed, step=0)[:_PICTURED]
        examples = [data[int(index)] for index in indices]
        views = jax.jit(make_views, static_argnames=("views", "image_size", "mean", "std"))(
            step_key(jax.device_get(initial.key), 0),
            np.stack([example["image"] for example in examples]),
            np.stack([example["aspect_ratio"] for example in examples]),
            views=experiment.views,
            image_size=preprocessing.image_size,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )
        return ViewGrid(
            np.stack([_picture(example) for example in examples]),
            [np.asarray(denormalize(view, preprocessing.mean, preprocessing.std)) for view in views],
        )


def neighbor_grid(
    train_data: Dataset, test_data: Dataset, train: Features, test: Features, sharding: NamedSharding
) -> NeighborGrid:
    """Some test images, spread over the split, and the training images nearest to them by their features."""
    (train_features, train_labels), (test_features, test_labels) = train, test
    # Spread over the split, which may be sorted by class.
    queries = np.linspace(0, len(test_data) - 1, min(_PICTURED, len(test_data))).astype(int)
    near = nearest_neighbors(train_features, test_features[queries], neighbors=5, sharding=sharding)
    indices = np.asarray(near.indices)
    labeled = train_data.num_classes is not None and test_data.num_classes is not None
    return NeighborGrid(
        queries=np.stack([_picture(test_data[int(i)]) for i in queries]),
        neighbors=np.stack([np.stack([_picture(train_data[int(j)]) for j in row]) for row in indices]),
        query_labels=test_labels[queries] if labeled else None,
        neighbor_labels=train_labels[indices] if labeled else None,
        similarities=np.asarray(near.similarities),
    )


def accuracies(
    config: ConfigDict, splits: tuple[Dataset, Dataset], train: Features, test: Features, sharding: NamedSharding
) -> dict[str, Any]:
    """What `evaluate_features` finds, with the settings of the config's `evaluation`; None where labels are missing."""
    train, test = labeled(train), labeled(test)
    num_classes = splits[0].num_classes
    if num_classes is None or splits[1].num_classes is None or not (len(train[1]) and len(test[1])):
        return dict.fromkeys(("knn_accuracy", "linear_accuracy", "few_label_accuracy"))
    evaluation = config.evaluation
    return evaluate_features(
        *train,
        *test,
        num_classes=num_classes,
        neighbors=evaluation.knn_neighbors,
        temperature=evaluation.knn_temperature,
        labels_per_class=evaluation.labels_per_class,
        draws=evaluation.draws,
        seed=config.seed,
        sharding=sharding,
    )


def labeled(split: Features) -> Features:
    """The images that have a label."""
    features, labels = split
    return features[labels >= 0], labels[labels >= 0]


def _picture(example: dict[str, Any]) -> np.ndarray:
    """The central square of an image as a person sees it: a canvas is stretched unless the image is square."""
    image, aspect_ratio = example["image"], example["aspect_ratio"]
    if aspect_ratio == 1:
        return image
    view = central_view(
        image[None], aspect_ratio[None], image_size=len(image), crop_fraction=1.0, mean=(0.0,), std=(1.0,)
    )
    return np.asarray(denormalize(view, (0.0,), (1.0,)))[0]
