"""What a fitted transform's features are worth: accuracies, baselines, neighbors."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.augment import central_view
from vicreg_jax.data import Dataset
from vicreg_jax.evaluation.features import extract_features, raw_pixel_features
from vicreg_jax.report import NeighborGrid
from vicreg_jax.smt.transform import SMT, projected_features
from vicreg_jax.smt.variants import image_variants
from vicreg_jax.tasks.pretrain.assessment import Features, accuracies, neighbor_grid
from vicreg_jax.tasks.smt.build import SMTExperiment, open_stream

_RAW_PIXELS_SIZE = 32  # side, at most: a classifier of more pixels takes longer than the transform


def assess(experiment: SMTExperiment, transform: SMT) -> tuple[dict[str, Any], NeighborGrid]:
    """All that is said of a fitted transform.

    Returns:
      Accuracies, with those of raw pixels and of a random projection of the same codes under `baselines`, as
      `summary.json` holds them (None without labels); and the report's neighbors.
    """
    splits = experiment.train_data, experiment.test_data
    # The same codes and pooling with another matrix: what the eigenproblem is worth.
    key = jax.random.fold_in(jax.random.key(experiment.config.seed), 1)
    projections = jnp.stack([transform.projection, jax.random.normal(key, transform.projection.shape)])
    train, test = (_features(experiment, transform, projections, split) for split in splits)
    results = _accuracies(experiment, _of_projection(train, 0), _of_projection(test, 0))
    baselines = None
    if results["knn_accuracy"] is not None:
        baselines = {
            "raw_pixels": _accuracies(experiment, *(_raw_pixels(experiment, split) for split in splits)),
            "random_projection": _accuracies(experiment, _of_projection(train, 1), _of_projection(test, 1)),
        }
    features, labels = _of_projection(train, 0)
    as_they_are = features[: len(splits[0])], labels[: len(splits[0])]
    neighbors = neighbor_grid(*splits, as_they_are, _of_projection(test, 0), experiment.sharding)
    return results | {"baselines": baselines}, neighbors


def _features(experiment: SMTExperiment, transform: SMT, projections: jax.Array, dataset: Dataset) -> Features:
    """`projected_features` of a split; of the training images in all variants, as they are first."""

    @partial(jax.jit, static_argnames="variant")
    def apply(arrays: tuple[SMT, jax.Array], batch: Any, variant: int) -> jax.Array:
        images = image_variants(batch["image"], experiment.options)[:, variant]
        return projected_features(*arrays, images, experiment.sharding)

    variants = range(experiment.options.variants if dataset is experiment.train_data else 1)
    found = [
        extract_features(
            partial(apply, variant=variant),
            (transform, projections),
            open_stream(experiment.config, dataset, experiment.sharding).batches(),
        )
        for variant in variants
    ]
    features, labels = zip(*found, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def _of_projection(features: Features, index: int) -> Features:
    return np.ascontiguousarray(features[0][:, index]), features[1]


def _raw_pixels(experiment: SMTExperiment, dataset: Dataset) -> Features:
    size = min(experiment.config.data.image_size, _RAW_PIXELS_SIZE)
    view = partial(central_view, image_size=size, crop_fraction=1.0, mean=(0.0,), std=(1.0,))
    return raw_pixel_features(open_stream(experiment.config, dataset, experiment.sharding).batches(), view)


def _accuracies(experiment: SMTExperiment, train: Features, test: Features) -> dict[str, Any]:
    splits = experiment.train_data, experiment.test_data
    return accuracies(experiment.config, splits, train, test, experiment.sharding)
