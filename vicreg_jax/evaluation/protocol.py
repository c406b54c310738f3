"""The evaluations of one feature set, all on the whole test split, as they go into `summary.json`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from vicreg_jax.evaluation.few_label import DRAWS, LABELS_PER_CLASS, few_label_accuracies
from vicreg_jax.evaluation.knn import NEIGHBORS, TEMPERATURE, knn_accuracy
from vicreg_jax.evaluation.linear_probe import fit_linear_probe, linear_accuracy


def evaluate_features(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    neighbors: int = NEIGHBORS,
    temperature: float = TEMPERATURE,
    labels_per_class: Sequence[int] = LABELS_PER_CLASS,
    draws: int = DRAWS,
    seed: int = 0,
    sharding: NamedSharding | None = None,
) -> dict[str, Any]:
    """kNN, linear and few-label accuracy of frozen features. See docs/evaluation.md for each protocol.

    Args:
      train_features, test_features: `[rows, dim]`.
      train_labels, test_labels: integers `[rows]` from 0 to num_classes - 1.
      num_classes: of the labels.
      neighbors, temperature: of the kNN classifier.
      labels_per_class: counts of labeled examples a class for the few-label accuracies.
      draws, seed: of the labeled examples; see `draw_labeled_examples`.
      sharding: splits the rows of both splits over the devices of a mesh, so that each holds and computes its share.
        Every process calls this with the same arrays and gets the same results.

    Returns:
      `knn_accuracy` and `linear_accuracy`; `linear_l2`, the weight that the linear classifier chose;
      `few_label_accuracy` and `few_label_std`, which map the number of labels a class (as a string) to the
      mean and the standard deviation (divided by draws - 1) over the draws, 0 for a single draw. Accuracies
      are fractions of the test split.

    Raises:
      ValueError: arrays that do not fit each other, labels outside of the classes, or features that are not
        finite.
    """
    _check("train", train_features, train_labels, num_classes)
    _check("test", test_features, test_labels, num_classes)
    split = (train_features, train_labels, test_features, test_labels)
    probe = fit_linear_probe(train_features, train_labels, num_classes=num_classes, sharding=sharding)
    few = few_label_accuracies(
        *split,
        num_classes=num_classes,
        labels_per_class=labels_per_class,
        draws=draws,
        seed=seed,
        sharding=sharding,
    )
    counts = [str(count) for count in labels_per_class]
    return {
        "knn_accuracy": knn_accuracy(
            *split, num_classes=num_classes, neighbors=neighbors, temperature=temperature, sharding=sharding
        ),
        "linear_accuracy": linear_accuracy(probe, test_features, test_labels, sharding=sharding),
        "linear_l2": probe.l2,
        "few_label_accuracy": dict(zip(counts, few.mean(axis=1).tolist(), strict=True)),
        "few_label_std": dict(zip(counts, few.std(axis=1, ddof=min(1, draws - 1)).tolist(), strict=True)),
    }


def _check(split: str, features: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(features):
        raise ValueError(
            f"{split}_features, {split}_labels: got shapes {features.shape} and {labels.shape}, "
            "take [rows, dim] and [rows] with at least one row"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"{split}_labels: got {labels.min()} to {labels.max()}, takes 0 to {num_classes - 1}")
    if not np.isfinite(features).all():
        raise ValueError(f"{split}_features: not all are finite")
