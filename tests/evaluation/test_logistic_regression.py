import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from sklearn.linear_model import LogisticRegression

from vicreg_jax.evaluation.logistic_regression import (
    fit_logistic_regression,
    mean_cross_entropy,
    zero_classifier,
)


def objective(weights, bias, features, labels, sample_weights, l2):
    scores = features @ np.asarray(weights, np.float64) + np.asarray(bias, np.float64)
    log_sum = np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1)) + scores.max(1)
    losses = log_sum - scores[np.arange(len(labels)), labels]
    penalty = l2 / 2 * np.sum(np.asarray(weights, np.float64) ** 2)
    return np.average(losses, weights=sample_weights) + penalty


def problem(rows, dim, classes, separation, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), rng.integers(0, classes, rows - classes)]
    mixing = rng.normal(size=(dim, dim)) / np.sqrt(dim)  # correlated features
    features = (rng.normal(size=(rows, dim)) + separation * rng.normal(size=(classes, dim))[labels]) @ mixing
    features = (features - features.mean(0)) / features.std(0)
    return features, labels, rng.uniform(0.2, 2.0, rows)


@pytest.mark.parametrize("l2", [1e-1, pytest.param(1e-3, marks=pytest.mark.slow), 1e-4])
@pytest.mark.parametrize(
    ("rows", "dim", "classes", "separation"),
    [
        (300, 20, 5, 0.3),
        *(pytest.param(*problem, marks=pytest.mark.slow) for problem in ((60, 100, 3, 0.5), (400, 30, 4, 3.0))),
    ],
)
@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_optimum_is_scikit_learns(rows, dim, classes, separation, l2, preconditioned):
    features, labels, sample_weights = problem(rows, dim, classes, separation)
    reference = LogisticRegression(C=1 / (l2 * sample_weights.sum()), tol=1e-9, max_iter=20000)
    reference.fit(features, labels, sample_weight=sample_weights)
    expected = objective(reference.coef_.T, reference.intercept_, features, labels, sample_weights, l2)
    classifier = fit_logistic_regression(
        jnp.asarray(features, jnp.float32),
        labels,
        jnp.asarray(sample_weights, jnp.float32),
        l2,
        zero_classifier(dim, classes),
        jnp.asarray(features.T @ features / rows, jnp.float32) if preconditioned else None,
    )
    actual = objective(*classifier, features, labels, sample_weights, l2)
    assert expected - 1e-6 < actual < expected + 1e-5
    # Strong convexity bounds the distance from the minimum of a point at most 1e-5 above it.
    distance = np.linalg.norm(np.asarray(classifier.weights) - reference.coef_.T)
    assert distance < np.sqrt(2e-5 / l2)


def test_a_warm_start_reaches_the_same_optimum():
    features, labels, sample_weights = problem(200, 16, 4, 0.5)
    arguments = (jnp.asarray(features, jnp.float32), labels, jnp.asarray(sample_weights, jnp.float32))
    cold = fit_logistic_regression(*arguments, 1e-2, zero_classifier(16, 4))
    strong = fit_logistic_regression(*arguments, 1e-1, zero_classifier(16, 4))
    warm = fit_logistic_regression(*arguments, 1e-2, strong)
    values = [objective(*c, features, labels, sample_weights, 1e-2) for c in (cold, warm)]
    np.testing.assert_allclose(values[0], values[1], atol=1e-5)
    # A start at the optimum stays there.
    again = fit_logistic_regression(*arguments, 1e-2, warm)
    np.testing.assert_array_equal(again.weights, warm.weights)


def test_rows_of_weight_zero_are_excluded():
    features, labels, _ = problem(200, 16, 4, 0.5)
    features = features.astype(np.float32)
    kept = np.arange(200) < 80
    start = zero_classifier(16, 4)
    masked = fit_logistic_regression(features, labels, kept.astype(np.float32), 1e-2, start)
    alone = fit_logistic_regression(features[:80], labels[:80], np.ones(80, np.float32), 1e-2, start)
    np.testing.assert_allclose(masked.weights, alone.weights, atol=2e-2)


def test_mean_cross_entropy():
    features, labels, sample_weights = problem(50, 6, 3, 1.0)
    rng = np.random.default_rng(1)
    classifier = zero_classifier(6, 3)._replace(weights=jnp.asarray(rng.normal(size=(6, 3)), jnp.float32))
    actual = mean_cross_entropy(classifier, features.astype(np.float32), labels, sample_weights)
    expected = objective(*classifier, features, labels, sample_weights, 0.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_class_without_examples_and_constant_features():
    features, labels, _ = problem(90, 5, 3, 1.0)
    features[:, 2] = 0.0
    features = features.astype(np.float32)
    classifier = fit_logistic_regression(features, labels, np.ones(90, np.float32), 1e-3, zero_classifier(5, 4))
    assert np.isfinite(classifier.weights).all()
    assert np.isfinite(classifier.bias).all()
    assert not np.any(np.argmax(classifier.scores(features), axis=1) == 3)
    np.testing.assert_array_equal(classifier.weights[2], 0.0)


def test_rows_may_be_sharded():
    features, labels, sample_weights = problem(200, 16, 4, 0.5)
    arguments = (features.astype(np.float32), labels, sample_weights.astype(np.float32))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(arguments, NamedSharding(mesh, PartitionSpec("data")))
    start = zero_classifier(16, 4)
    np.testing.assert_allclose(
        fit_logistic_regression(*sharded, 1e-2, start).weights,
        fit_logistic_regression(*arguments, 1e-2, start).weights,
        atol=2e-2,
    )
