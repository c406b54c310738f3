"""What every task's final evaluation does with the features of both splits."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from vicreg_jax.augment import Preprocessing, View, central_view, denormalize, make_views
from vicreg_jax.data import Batch, Dataset, evaluation_batches, is_resident, step_indices
from vicreg_jax.evaluation import (
    EvaluationSettings,
    FeatureBank,
    LabeledFeatures,
    evaluate_features,
    extract_bank,
    extract_features,
    knn_accuracy,
    nearest_neighbors,
)
from vicreg_jax.evaluation.feature_bank import LARGE_SPLIT
from vicreg_jax.evaluation.features import raw_pixels
from vicreg_jax.report import NeighborGrid, ViewGrid
from vicreg_jax.tasks.task import Experiment
from vicreg_jax.training.mesh import batch_sharding
from vicreg_jax.training.state import step_key

PICTURED = 8  # images in each grid of the report
_MAX_RAW_PIXELS_SIZE = 32  # side: a classifier of more pixels takes longer than the network
_ACCURACIES = ("knn_accuracy", "linear_accuracy", "few_label_accuracy")

TrainFeatures = LabeledFeatures | FeatureBank
FeaturesOf = Callable[["SplitEvaluation"], tuple[TrainFeatures, LabeledFeatures]]
"""The features of both splits, by a network with its parameters."""


def evaluation_settings(config: ConfigDict) -> EvaluationSettings:
    """The settings of the config's section `evaluation`."""
    evaluation = config.evaluation
    return EvaluationSettings(
        evaluation.knn_neighbors, evaluation.knn_temperature, tuple(evaluation.labels_per_class), evaluation.draws
    )


@dataclass(frozen=True)
class SplitEvaluation:
    """Evaluates features of two splits. Several processes must call each method together.

    Attributes:
        config: of the task; the sections `data` and `evaluation` count, and the seed.
        mesh: the devices.
        train_data: whose labels the classifiers learn.
        test_data: on which they are tested.
    """

    config: ConfigDict
    mesh: Mesh
    train_data: Dataset
    test_data: Dataset

    @classmethod
    def of(cls, experiment: Experiment) -> "SplitEvaluation":
        """On the experiment's own splits."""
        return cls(experiment.config, experiment.mesh, experiment.evaluation_train_data, experiment.test_data)

    @property
    def splits(self) -> tuple[Dataset, Dataset]:
        """The training and the test split of the evaluation."""
        return self.train_data, self.test_data

    @property
    def sharding(self) -> NamedSharding:
        """Of images over the devices."""
        return batch_sharding(self.mesh)

    @property
    def num_classes(self) -> int | None:
        """Of the labels; None where one of the splits is unlabeled: then there are no accuracies."""
        unlabeled = any(split.num_classes is None for split in self.splits)
        return None if unlabeled else self.train_data.num_classes

    def batch_size(self, at_least: int) -> int:
        """A multiple of the devices, so that each has the same number of rows."""
        devices = self.mesh.size
        return -(-at_least // devices) * devices

    def batches(self, dataset: Dataset, batch_size: int) -> Iterator[Batch]:
        """All images of a split once, in order."""
        data = self.config.data
        return evaluation_batches(
            dataset,
            batch_size=self.batch_size(batch_size),
            sharding=self.sharding,
            resident=is_resident(dataset, data.placement),
            workers=data.workers,
        )

    def features(
        self, apply: Callable[[Any, Batch], jax.Array], variables: Any, batch_size: int | None = None
    ) -> tuple[TrainFeatures, LabeledFeatures]:
        """The features of both splits; those of a large training split stay on the devices.

        Args:
            apply, variables: as for `extract_features`.
            batch_size: None: that of the config.
        """
        train, test = (self.batches(split, batch_size or self.config.evaluation.batch_size) for split in self.splits)
        images = len(self.train_data)
        if images <= LARGE_SPLIT:
            return extract_features(apply, variables, train), extract_features(apply, variables, test)
        bank = extract_bank(apply, variables, train, images=images, sharding=self.sharding, max_subset=LARGE_SPLIT)
        return bank, extract_features(apply, variables, test)

    def knn_accuracy(self, train: TrainFeatures, test: LabeledFeatures) -> dict[str, float]:
        """`knn_accuracy` on the test split; empty without labels."""
        train, test = _labeled_train(train), labeled(test)
        if self.num_classes is None or not (len(train.labels) and len(test.labels)):
            return {}
        settings = evaluation_settings(self.config)
        accuracy = knn_accuracy(
            train,
            test,
            num_classes=self.num_classes,
            neighbors=settings.knn_neighbors,
            temperature=settings.knn_temperature,
            sharding=self.sharding,
        )
        return {"knn_accuracy": float(accuracy)}

    def accuracies(self, train: TrainFeatures, test: LabeledFeatures) -> dict[str, Any]:
        """All accuracies and the classes without training images, as in `summary.json`; None without labels."""
        train, test = _labeled_train(train), labeled(test)
        if self.num_classes is None or not (len(train.labels) and len(test.labels)):
            return dict.fromkeys(_ACCURACIES)
        accuracies = evaluate_features(
            train,
            test,
            evaluation_settings(self.config),
            num_classes=self.num_classes,
            seed=self.config.seed,
            sharding=self.sharding,
        )
        names = self.train_data.class_names or ()
        unseen = np.setdiff1d(test.labels, train.labels)
        return accuracies | {"unseen_classes": [names[label] for label in unseen]}

    def raw_pixel_accuracies(self, batch_size: int, central_fraction: float = 1.0) -> dict[str, Any]:
        """The accuracies of raw pixels, the baseline without a network."""
        size = min(self.config.data.image_size, _MAX_RAW_PIXELS_SIZE)
        view = functools.partial(central_view, preprocessing=Preprocessing(size, (0.0,), (1.0,), central_fraction))
        return self.accuracies(*self.features(raw_pixels(view), None, batch_size))

    def beside_baselines(
        self, trained: FeaturesOf, others: Mapping[str, FeaturesOf], central_fraction: float
    ) -> dict[str, Any]:
        """The accuracies of a trained network; under `baselines`, those of raw pixels and of other networks.

        Args:
            trained: the features of both splits.
            others: those of the other networks, by name; not called without labels.
            central_fraction: of the image, that all networks see.

        Returns:
            As `summary.json` holds them; None without labels.
        """
        results, baselines = self.accuracies(*trained(self)), None
        if results["knn_accuracy"] is not None:
            pixels = self.raw_pixel_accuracies(self.config.evaluation.batch_size, central_fraction)
            baselines = {"raw_pixels": pixels} | {
                name: self.accuracies(*features(self)) for name, features in others.items()
            }
        return results | {"baselines": baselines}

    def neighbor_grid(self, train: TrainFeatures, test: LabeledFeatures) -> NeighborGrid:
        """Some test images, and the training images nearest to them by their features."""
        train_data, test_data = self.splits
        queries = evenly_spaced(len(test_data), PICTURED)
        bank = train if isinstance(train, FeatureBank) else train.features
        near = nearest_neighbors(bank, test.features[queries], neighbors=5, sharding=self.sharding)
        indices = np.asarray(near.indices)
        has_labels = self.num_classes is not None
        return NeighborGrid(
            queries=np.stack([picture(test_data[int(i)]) for i in queries]),
            neighbors=np.stack([np.stack([picture(train_data[int(j)]) for j in row]) for row in indices]),
            query_labels=test.labels[queries] if has_labels else None,
            neighbor_labels=train.labels[indices] if has_labels else None,
            similarities=np.asarray(near.similarities),
        )


def view_grid(experiment: Experiment, key: jax.Array, views: Sequence[View], preprocessing: Preprocessing) -> ViewGrid:
    """The first images of the first step, with the very views that the network was given.

    Args:
        experiment: of the run.
        key: the run's key as key data, as in `TrainState`.
        views, preprocessing: of the step.
    """
    data, config = experiment.train_data, experiment.config
    indices = step_indices(len(data), config.train.batch_size, config.seed, step=0)[:PICTURED]
    examples = [data[int(index)] for index in indices]
    drawn = jax.jit(make_views, static_argnames=("views", "preprocessing"))(
        step_key(jax.device_get(key), 0),
        np.stack([example["image"] for example in examples]),
        np.stack([example["aspect_ratio"] for example in examples]),
        views=tuple(views),
        preprocessing=preprocessing,
    )
    return ViewGrid(
        np.stack([picture(example) for example in examples]),
        [np.asarray(denormalize(view, preprocessing.mean, preprocessing.std)) for view in drawn],
    )


def network_features(backbone: nn.Module, preprocessing: Preprocessing) -> jax.stages.Wrapped:
    """`(variables, batch) -> features [batch, dim]` of the central view of each image, jitted."""

    def features(variables: Any, batch: Batch) -> jax.Array:
        images = central_view(batch["image"], batch["aspect_ratio"], preprocessing)
        found: Any = backbone.apply(variables, images, train=False)
        return found

    return jax.jit(features)


def _labeled_train(train: TrainFeatures) -> TrainFeatures:
    return train.labeled() if isinstance(train, FeatureBank) else labeled(train)


def labeled(split: LabeledFeatures) -> LabeledFeatures:
    """The rows that have a label."""
    return LabeledFeatures(split.features[split.labels >= 0], split.labels[split.labels >= 0])


def evenly_spaced(count: int, max_count: int) -> np.ndarray:
    """At most `max_count` indices spread over `count` images, which may be sorted by class."""
    return np.linspace(0, count - 1, min(max_count, count)).astype(int)


def picture(example: dict[str, Any]) -> np.ndarray:
    """The central square of an image as a person sees it: a canvas is stretched unless the image is square."""
    image, aspect_ratio = example["image"], example["aspect_ratio"]
    if aspect_ratio == 1:
        return image
    view = central_view(image[None], aspect_ratio[None], Preprocessing(len(image), (0.0,), (1.0,)))
    return np.asarray(denormalize(view, (0.0,), (1.0,)))[0]
