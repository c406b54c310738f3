"""What a fitted transform's features are worth: accuracies, baselines, neighbours."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np

from vicreg_jax.assessment import Features, labelled, neighbour_grid
from vicreg_jax.augment import central_view
from vicreg_jax.data import Dataset
from vicreg_jax.evaluation.features import extract_features, raw_pixel_features
from vicreg_jax.evaluation.protocol import evaluate_features
from vicreg_jax.evaluation.report import NeighbourGrid
from vicreg_jax.smt.experiment import SMTExperiment, open_stream
from vicreg_jax.smt.transform import SMT, image_features
from vicreg_jax.smt.variants import image_variants

_RAW_PIXELS_SIZE = 32  # side, at most: a classifier of more pixels takes longer than the transform


def assess(experiment: SMTExperiment, transform: SMT) -> tuple[dict[str, Any], NeighbourGrid]:
    """All that is said of a fitted transform.

    Returns:
      Accuracies, with those of raw pixels and of a random projection of the same codes under `baselines`, as
      `summary.json` holds them (None without labels); and the report's neighbours.
    """
    splits = experiment.train_data, experiment.test_data
    train, test = _features_of_splits(experiment, transform)
    results = _accuracies(experiment, train, test)
    baselines = None
    if results["knn_accuracy"] is not None:
        # The same codes, patches and pooling: what the eigenproblem is worth.
        key = jax.random.fold_in(jax.random.key(experiment.config.seed), 1)
        shape = transform.projection.shape
        random = dataclasses.replace(transform, projection=jax.random.normal(key, shape))
        baselines = {
            "raw_pixels": _accuracies(experiment, *(_raw_pixels(experiment, split) for split in splits)),
            "random_projection": _accuracies(experiment, *_features_of_splits(experiment, random)),
        }
    features, labels = train
    as_they_are = features[: len(splits[0])], labels[: len(splits[0])]
    return results | {"baselines": baselines}, neighbour_grid(*splits, as_they_are, test, experiment.sharding)


def _features_of_splits(experiment: SMTExperiment, transform: SMT) -> tuple[Features, Features]:
    """Features of both splits; of the training images in all variants, as they are first."""
    variants = range(experiment.options.variants)
    train = [_features(experiment, transform, experiment.train_data, variant) for variant in variants]
    features, labels = zip(*train, strict=True)
    return (np.concatenate(features), np.concatenate(labels)), _features(experiment, transform, experiment.test_data, 0)


def _features(experiment: SMTExperiment, transform: SMT, dataset: Dataset, variant: int) -> Features:
    @jax.jit
    def apply(transform: SMT, batch: Any) -> jax.Array:
        images = image_variants(batch["image"], experiment.options)[:, variant]
        return image_features(transform, images, experiment.sharding)

    return extract_features(apply, transform, open_stream(experiment.config, dataset, experiment.sharding).batches())


def _raw_pixels(experiment: SMTExperiment, dataset: Dataset) -> Features:
    size = min(experiment.config.data.image_size, _RAW_PIXELS_SIZE)
    view = partial(central_view, image_size=size, crop_fraction=1.0, mean=(0.0,), std=(1.0,))
    return raw_pixel_features(open_stream(experiment.config, dataset, experiment.sharding).batches(), view)


def _accuracies(experiment: SMTExperiment, train: Features, test: Features) -> dict[str, Any]:
    train, test = labelled(train), labelled(test)
    classes = experiment.train_data.num_classes
    if classes is None or experiment.test_data.num_classes is None or not (len(train[1]) and len(test[1])):
        return dict.fromkeys(("knn_accuracy", "linear_accuracy", "few_label_accuracy"))
    evaluation = experiment.config.evaluation
    return evaluate_features(
        *train,
        *test,
        num_classes=classes,
        neighbours=evaluation.knn_neighbours,
        temperature=evaluation.knn_temperature,
        labels_per_class=evaluation.labels_per_class,
        draws=evaluation.draws,
        seed=experiment.config.seed,
        sharding=experiment.sharding,
    )
