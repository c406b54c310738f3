"""Images with several labels: one linear support vector machine per class, and mean average precision."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
_FOLDS = 3
_POSITIVE_WEIGHT = 2.0
_LEFT_OUT = -1


def evaluate_multi_label(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    costs: tuple[float, ...] = COSTS,
) -> dict[str, Any]:
    """Compute the mean average precision of one linear SVM per class, on frozen features of unit length.

    The cost C of each class is the one with the largest average precision in threefold cross-validation on the training
    images. Folds are the same in every call: every third image with the class, and every third one without it. Positive
    images weigh twice as much as negative ones.

    Args:
        train_features: `[images, dim]`, any floating dtype.
        train_labels: `[images, classes]`: 1 where the image shows the class, 0 where not, -1 to leave the image out for
            that class (VOC's difficult objects). Each class with three images at least that show it, and three that
            do not.
        test_features: likewise.
        test_labels: likewise, with at least one image that shows the class.
        costs: the values of C to choose from, each above 0.

    Returns:
        A dict of plain Python numbers: `mean_average_precision`, and `average_precision` by class, as areas under the
        interpolated curves of precision by recall, which the published numbers of self-supervised encoders on VOC07
        are; the same with `_11_point` appended, as VOC07's own code computes it; and `cost`, the C of each class.

    Raises:
        ValueError: shapes disagree, a label is none of these, or a class has too few images.

    Source: Goyal et al. 2019 (arXiv 1905.01235) and the code of its benchmark; Bardes et al. 2022,
        appendix C.3. The interpolations are those of the VOC devkits of 2010 and 2007.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(2, size=(80, 3))
    >>> features = labels @ np.eye(3, 8) + 0.3 * rng.normal(size=(80, 8))
    >>> found = evaluate_multi_label(features[:60], labels[:60], features[60:], labels[60:], costs=(0.1, 1.0))
    >>> len(found["average_precision"]), round(found["mean_average_precision"], 2)
    (3, 0.98)
    """
    x, y = _checked("train", train_features, train_labels, at_least=_FOLDS)
    test_x, test_y = _checked("test", test_features, test_labels, at_least=1)
    if x.shape[1] != test_x.shape[1] or y.shape[1] != test_y.shape[1]:
        raise ValueError(
            f"test_features and test_labels must have the columns of the training ones, {x.shape[1]} and {y.shape[1]}; "
            f"got {test_x.shape[1]} and {test_y.shape[1]}"
        )
    if not costs or min(costs) <= 0:
        raise ValueError(f"costs must be numbers above 0; got {costs!r}")
    chosen, areas, points = [], [], []
    for ours, theirs in zip(y.T, test_y.T, strict=True):
        used = ours != _LEFT_OUT
        cost = costs[int(np.argmax([_cross_validated(x[used], ours[used], cost) for cost in costs]))]
        scores = _scores(x[used], ours[used], test_x, cost)
        tested = theirs != _LEFT_OUT
        area, of_points = average_precision(scores[tested], theirs[tested])
        chosen.append(float(cost))
        areas.append(area)
        points.append(of_points)
    return {
        "mean_average_precision": float(np.mean(areas)),
        "mean_average_precision_11_point": float(np.mean(points)),
        "average_precision": areas,
        "average_precision_11_point": points,
        "cost": chosen,
    }


def average_precision(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    r"""Compute the average precision of a ranking, by both of VOC's definitions.

    The precision at a recall is the largest one at that recall or above.

    Args:
        scores: `[images]`. Equal scores are ranked by index.
        labels: `[images]`, 1 where the image shows the class; at least one.

    Returns:
        The area under the curve (VOC 2010 and later), and the mean precision at the recalls 0, 0.1, ..., 1 (VOC07).

    >>> area, of_points = average_precision(np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1]))
    >>> print(f"{area:.4f} {of_points:.4f}")
    0.8333 0.8485
    """
    found = np.cumsum(labels[np.argsort(-scores, kind="stable")] == 1)
    total = found[-1]
    best = np.maximum.accumulate((found / np.arange(1, len(found) + 1))[::-1])[::-1]
    first = np.searchsorted(found, np.arange(1, total + 1))  # the rank of each positive image
    # The recall `tenths / 10` is reached with the `ceil(tenths * total / 10)`-th positive image.
    reached = np.searchsorted(found, -(-np.arange(11) * total // 10))
    return float(np.mean(best[first])), float(np.mean(best[reached]))


def _cross_validated(x: np.ndarray, labels: np.ndarray, cost: float) -> float:
    """The mean average precision over the folds."""
    folds = np.empty(len(labels), int)
    for label in (0, 1):
        of_label = labels == label
        folds[of_label] = np.arange(np.sum(of_label)) % _FOLDS
    found = []
    for fold in range(_FOLDS):
        held_out = folds == fold
        scores = _scores(x[~held_out], labels[~held_out], x[held_out], cost)
        found.append(average_precision(scores, labels[held_out])[0])
    return float(np.mean(found))


def _scores(x: np.ndarray, labels: np.ndarray, others: np.ndarray, cost: float) -> np.ndarray:
    from sklearn.svm import LinearSVC

    # The primal problem has the optimum of the dual one, which LIBLINEAR solves at random and rarely to the end.
    svm = LinearSVC(C=cost, class_weight={1: _POSITIVE_WEIGHT, 0: 1.0}, dual=False)
    scores: np.ndarray = svm.fit(x, labels).decision_function(others)
    return scores


def _checked(name: str, features: ArrayLike, labels: ArrayLike, *, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of unit length in float64, and integer labels."""
    x, y = np.asarray(features).astype(np.float64), np.asarray(labels)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or 0 in x.shape + y.shape:
        raise ValueError(
            f"{name}_features and {name}_labels must have shapes [images, dim] and [images, classes]; "
            f"got {x.shape} and {y.shape}"
        )
    if not np.all(np.isfinite(x)):
        raise ValueError(f"{name}_features must be finite; got {np.sum(~np.isfinite(x))} entries that are not")
    if not np.all(np.isin(y, (_LEFT_OUT, 0, 1))):
        raise ValueError(f"{name}_labels must be 0, 1 or -1; got {y[~np.isin(y, (_LEFT_OUT, 0, 1))][0]!r}")
    for label in (1, 0) if at_least > 1 else (1,):
        counts = np.sum(y == label, axis=0)
        if counts.min() < at_least:
            raise ValueError(
                f"{name}_labels must have {at_least} images of label {label} for every class; got {counts.min()} for "
                f"class {counts.argmin()}"
            )
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float64).tiny), y.astype(int)
