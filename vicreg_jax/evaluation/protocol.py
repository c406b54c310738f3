"""The evaluation protocol: every accuracy of one set of features, as `summary.json` holds them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from vicreg_jax.evaluation.class_balance import balanced_accuracy, majority_accuracy
from vicreg_jax.evaluation.feature_bank import FeatureBank
from vicreg_jax.evaluation.features import LabeledFeatures
from vicreg_jax.evaluation.few_label import DRAWS, LABELS_PER_CLASS, few_label_accuracies
from vicreg_jax.evaluation.knn import NEIGHBORS, TEMPERATURE, knn_predict
from vicreg_jax.evaluation.linear_probe import fit_linear_probe


@dataclass(frozen=True)
class EvaluationSettings:
    """Hyperparameters of the evaluation. The linear probe has none.

    Attributes:
        knn_neighbors: number of neighbors that vote; at least 1.
        knn_temperature: temperature of their votes; above 0.
        labels_per_class: numbers of labeled examples per class, each at least 1; at least one number.
        draws: random draws of the labeled examples, for each number of labels; at least 1.

    Raises:
        ValueError: a value is out of range.
    """

    knn_neighbors: int = NEIGHBORS
    knn_temperature: float = TEMPERATURE
    labels_per_class: tuple[int, ...] = LABELS_PER_CLASS
    draws: int = DRAWS

    def __post_init__(self) -> None:
        if self.knn_neighbors < 1:
            raise ValueError(f"knn_neighbors must be at least 1; got {self.knn_neighbors!r}")
        if not self.knn_temperature > 0:
            raise ValueError(f"knn_temperature must be above 0; got {self.knn_temperature!r}")
        if not self.labels_per_class or min(self.labels_per_class) < 1:
            raise ValueError(f"labels_per_class must hold integers of at least 1; got {self.labels_per_class!r}")
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1; got {self.draws!r}")


def evaluate_features(
    train: LabeledFeatures | FeatureBank,
    test: LabeledFeatures,
    settings: EvaluationSettings = EvaluationSettings(),
    *,
    num_classes: int,
    seed: int = 0,
    sharding: NamedSharding | None = None,
) -> dict[str, Any]:
    """Compute the kNN, linear and few-label accuracies of frozen features. See docs/guides/evaluation.md.

    Args:
        train: features `[rows, dim]` and integer labels `[rows]` from 0 to num_classes - 1, as numpy arrays. A plain
            pair works too. Or a `FeatureBank`: kNN then takes all of its images, and the classifiers that are trained
            take its subset.
        test: likewise; the accuracies are on all of it.
        settings: hyperparameters.
        num_classes: number of classes.
        seed: seed of the draws of labeled examples; see `draw_labeled_examples`.
        sharding: splits the rows of both splits over the devices of a mesh, so that each device holds and computes
            its share. Every process passes the same arrays and gets the same results.

    Returns:
        A dict of plain Python numbers; accuracies are fractions of the test split. `knn_accuracy` and
        `linear_accuracy`; `knn_balanced_accuracy` and `linear_balanced_accuracy`, their means over the classes of the
        test split; `majority_accuracy`, of always predicting the most frequent training class; `linear_l2`, the L2
        weight that the linear probe chose; `few_label_accuracy` and `few_label_std`, which map the number of labels per
        class (as a string) to the mean and the standard deviation over the draws (unbiased; 0 for a single draw). Of a
        `FeatureBank` also `trained_on`: how many images the classifiers that are trained take, and that they are every
        k-th (`{"images": ..., "every": ...}`).

    Raises:
        ValueError: shapes disagree, a label is out of range, or a feature is not finite.
    """
    subset = train.subset if isinstance(train, FeatureBank) else train
    _check("train", subset, num_classes)
    _check("test", test, num_classes)
    test_features, test_labels = test
    train_labels = subset[1]
    trained_on: dict[str, Any] = {}
    if isinstance(train, FeatureBank):
        if not train.is_finite():
            raise ValueError("train must have finite features; got NaN or infinity")
        train_labels = train.labels[train.labels >= 0]
        trained_on = {"trained_on": {"images": len(subset.labels), "every": train.every}}
    knn = np.asarray(
        knn_predict(
            train,
            test_features,
            num_classes=num_classes,
            neighbors=settings.knn_neighbors,
            temperature=settings.knn_temperature,
            sharding=sharding,
        )
    )
    probe = fit_linear_probe(*subset, num_classes=num_classes, sharding=sharding)
    linear = np.asarray(probe.predict(test_features, sharding=sharding))
    few = few_label_accuracies(
        subset,
        test,
        num_classes=num_classes,
        labels_per_class=settings.labels_per_class,
        draws=settings.draws,
        seed=seed,
        sharding=sharding,
    )
    counts = [str(count) for count in settings.labels_per_class]
    return {
        "knn_accuracy": float(np.mean(knn == test_labels)),
        "knn_balanced_accuracy": balanced_accuracy(knn, test_labels),
        "linear_accuracy": float(np.mean(linear == test_labels)),
        "linear_balanced_accuracy": balanced_accuracy(linear, test_labels),
        "majority_accuracy": majority_accuracy(train_labels, test_labels),
        "linear_l2": probe.l2,
        "few_label_accuracy": dict(zip(counts, few.mean(axis=1).tolist(), strict=True)),
        "few_label_std": dict(zip(counts, few.std(axis=1, ddof=min(1, settings.draws - 1)).tolist(), strict=True)),
        **trained_on,
    }


def _check(name: str, split: LabeledFeatures, num_classes: int) -> None:
    features, labels = split
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(features):
        raise ValueError(
            f"{name} must have features [rows, dim] and labels [rows] with at least one row; "
            f"got shapes {features.shape} and {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"{name} must have labels from 0 to {num_classes - 1}; got labels from {labels.min()} to {labels.max()}"
        )
    if not np.isfinite(features).all():
        raise ValueError(f"{name} must have finite features; got NaN or infinity")
