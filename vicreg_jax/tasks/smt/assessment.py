"""What the features of a fitted transform are worth: accuracies, baselines, neighbors."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.data import Batch, Dataset
from vicreg_jax.evaluation import LabeledFeatures, extract_features
from vicreg_jax.report import NeighborGrid
from vicreg_jax.smt.transform import SMT, projected_features
from vicreg_jax.smt.variants import image_variants
from vicreg_jax.tasks.features import SplitEvaluation
from vicreg_jax.tasks.smt.build import SMTExperiment, open_stream
from vicreg_jax.training.state import run_key


def assess(experiment: SMTExperiment, transform: SMT) -> tuple[dict[str, Any], NeighborGrid]:
    """The accuracies of a fitted transform, and the neighbors for the report.

    Returns:
        The accuracies, with those of raw pixels and of a random projection of the same codes under `baselines`, as
        `summary.json` holds them (None without labels); and the neighbors.
    """
    evaluation = SplitEvaluation.of(experiment)
    # The same codes and pooling with another matrix: this baseline shows what the eigenproblem is worth.
    key = jax.random.fold_in(run_key(experiment.config.seed), 1)
    projections = jnp.stack([transform.projection, jax.random.normal(key, transform.projection.shape)])
    train, test = (_features(experiment, transform, projections, split) for split in evaluation.splits)
    results = evaluation.accuracies(_of_projection(train, 0), _of_projection(test, 0))
    baselines = None
    if results["knn_accuracy"] is not None:
        baselines = {
            "raw_pixels": evaluation.raw_pixel_accuracies(experiment.plan.batch_size),
            "random_projection": evaluation.accuracies(_of_projection(train, 1), _of_projection(test, 1)),
        }
    features, labels = _of_projection(train, 0)
    unchanged = len(experiment.train_data)  # the variants of the training images follow the images themselves
    first_variant = LabeledFeatures(features[:unchanged], labels[:unchanged])
    neighbors = evaluation.neighbor_grid(first_variant, _of_projection(test, 0))
    return results | {"baselines": baselines}, neighbors


def _features(experiment: SMTExperiment, transform: SMT, projections: jax.Array, dataset: Dataset) -> LabeledFeatures:
    """`projected_features` of a split; of training images in all variants, the unchanged images first."""

    @partial(jax.jit, static_argnames="variant")
    def apply(arrays: tuple[SMT, jax.Array], batch: Batch, variant: int) -> jax.Array:
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
    return LabeledFeatures(np.concatenate(features), np.concatenate(labels))


def _of_projection(found: LabeledFeatures, index: int) -> LabeledFeatures:
    return LabeledFeatures(np.ascontiguousarray(found.features[:, index]), found.labels)
