import doctest

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from vicreg_jax.evaluation import evaluate_multi_label, multi_label
from vicreg_jax.evaluation.multi_label import average_precision


def data(images, seed, classes=3, dim=10):
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, classes)) < 0.4).astype(int)
    return (labels @ np.eye(classes, dim) + 0.6 * rng.normal(size=(images, dim))).astype(np.float32), labels


@pytest.mark.parametrize("seed", range(4))
def test_average_precision(seed):
    """Against the definitions of the two devkits, image by image."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=40), (rng.random(40) < 0.3).astype(int)
    order = np.argsort(-scores)
    precision = [labels[order[: n + 1]].mean() for n in range(40)]
    recall = [labels[order[: n + 1]].sum() / labels.sum() for n in range(40)]

    def best(level):
        return max(p for p, r in zip(precision, recall, strict=True) if r >= level - 1e-12)

    area = sum((r - before) * best(r) for before, r in zip([0, *recall], recall, strict=False))
    found = average_precision(scores, labels)
    np.testing.assert_allclose(found, (area, np.mean([best(n / 10) for n in range(11)])), rtol=1e-12)
    assert found[0] >= average_precision_score(labels, scores) - 1e-12  # without interpolation


def test_perfect_and_worst_ranking():
    labels = np.array([1, 1, 0, 0, 0])
    assert average_precision(np.arange(5, 0, -1), labels) == (1, 1)
    np.testing.assert_allclose(average_precision(np.arange(5), labels)[0], 2 / 5)


def test_evaluation():
    train, test = data(90, 0), data(60, 1)
    found = evaluate_multi_label(*train, *test, costs=(0.1, 10.0))
    assert found["mean_average_precision"] == pytest.approx(np.mean(found["average_precision"]))
    assert found["mean_average_precision_11_point"] == pytest.approx(np.mean(found["average_precision_11_point"]))
    assert 0.7 < found["mean_average_precision"] < 1
    assert set(found["cost"]) <= {0.1, 10.0}
    # The length of a feature vector carries nothing.
    again = evaluate_multi_label(
        3 * train[0], train[1], test[0] * np.arange(1, 61)[:, None], test[1], costs=(0.1, 10.0)
    )
    np.testing.assert_allclose(again["average_precision"], found["average_precision"], rtol=1e-6)


def test_primal_problem_has_the_optimum_of_the_dual_one():
    """Of the weighted squared hinge loss with a penalized intercept, as a zero of the gradient in NumPy."""
    from sklearn.svm import LinearSVC

    x, labels = data(60, 0, classes=1)
    x, labels, cost = x.astype(np.float64), labels[:, 0], 0.5
    svm = LinearSVC(C=cost, class_weight={1: 2.0, 0: 1.0}, dual=False, tol=1e-10).fit(x, labels)
    sign, weight = 2 * labels - 1, cost * np.where(labels == 1, 2.0, 1.0)
    inputs = np.c_[x, np.ones(60)]
    w = np.r_[svm.coef_[0], svm.intercept_]
    slack = np.maximum(0, 1 - sign * (inputs @ w))
    np.testing.assert_allclose(w - 2 * inputs.T @ (weight * slack * sign), 0, atol=1e-6)
    np.testing.assert_allclose(multi_label._scores(x, labels, x, cost), inputs @ w, rtol=0.02, atol=0.02)


def test_images_left_out_of_a_class_do_not_count():
    train, test = data(60, 0), data(40, 1)
    left_out = [train[1].copy(), test[1].copy()]
    for labels in left_out:
        labels[:10, 0] = -1
    found = evaluate_multi_label(train[0], left_out[0], test[0], left_out[1], costs=(1.0,))
    without = evaluate_multi_label(train[0][10:], train[1][10:], test[0][10:], test[1][10:], costs=(1.0,))
    all_images = evaluate_multi_label(*train, *test, costs=(1.0,))
    assert found["average_precision"][0] == pytest.approx(without["average_precision"][0])
    assert found["average_precision"][1:] == pytest.approx(all_images["average_precision"][1:])


def test_errors():
    (x, y), (test_x, test_y) = data(30, 0), data(20, 1)
    for arguments, message in (
        (
            (x[:5], y, test_x, test_y),
            r"train_features and train_labels must have shapes .*; got \(5, 10\) and",
        ),
        (
            (x, y, test_x, test_y[:, :2]),
            r"test_features and test_labels must have the columns .*; got 10 and 2",
        ),
        ((x, 2 * y, test_x, test_y), r"train_labels must be 0, 1 or -1; got .*2"),
        ((x, 0 * y, test_x, test_y), r"train_labels must have 3 images of label 1 for every class; got 0 for class 0"),
        ((x, y, test_x, 0 * test_y), r"test_labels must have 1 images of label 1 for every class"),
        ((x * np.nan, y, test_x, test_y), r"train_features must be finite; got 300 entries"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_multi_label(*arguments)
    with pytest.raises(ValueError, match=r"costs must be numbers above 0; got \(\)"):
        evaluate_multi_label(x, y, test_x, test_y, costs=())


def test_docstring_examples():
    assert doctest.testmod(multi_label).failed == 0
