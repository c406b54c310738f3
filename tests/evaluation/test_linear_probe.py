import numpy as np
import pytest

from vicreg_jax.evaluation.linear_probe import (
    L2_GRID,
    L2_OF_FEW_EXAMPLES,
    STD_FLOOR,
    fit_linear_probe,
    linear_accuracy,
    standardize,
)


def test_standardization():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 6)) * [1.0, 2.0, 3.0, 0.01, 0.0, 1.5] + 5.0
    std = features.std(0)
    scale = np.maximum(std, STD_FLOOR * np.sqrt(np.mean(std**2)))
    standardizer, standardized = standardize(features)
    standardized = np.asarray(standardized)
    np.testing.assert_allclose(standardized, (features - features.mean(0)) / scale, atol=2e-5)
    np.testing.assert_allclose(standardized.std(0)[[0, 1, 2, 5]], 1.0, rtol=1e-4)
    assert np.abs(standardized[:, 3]).max() < 0.1  # noise stays small
    np.testing.assert_allclose(standardizer(features[:7]), standardized[:7], atol=1e-6)


def test_features_that_are_all_constant_give_the_most_frequent_class():
    labels = np.array([0, 1, 1, 2, 1, 0, 1, 1])
    probe = fit_linear_probe(np.full((8, 3), 2.5), labels, num_classes=3)
    np.testing.assert_array_equal(probe.predict(np.full((2, 3), 2.5)), [1, 1])


@pytest.fixture
def noisy_split():
    """Two informative dimensions among many of noise: little regularization overfits."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    centers = np.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    features = np.concatenate([centers[labels] + rng.normal(size=(120, 2)), rng.normal(size=(120, 120))], 1)
    return features, labels


def test_noise_selects_strong_regularization(noisy_split):
    train, labels = noisy_split
    probe = fit_linear_probe(train, labels, num_classes=3)
    assert probe.l2 == max(L2_GRID)


def test_separable_classes_select_weak_regularization():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    features = 6.0 * np.eye(4)[labels] + rng.normal(size=(200, 4))
    probe = fit_linear_probe(features, labels, num_classes=4)
    assert probe.l2 == min(L2_GRID)
    assert linear_accuracy(probe, features, labels) == 1.0


def test_it_is_deterministic(noisy_split):
    train, labels = noisy_split
    first, second = (fit_linear_probe(train, labels, num_classes=3) for _ in range(2))
    np.testing.assert_array_equal(first.classifier.weights, second.classifier.weights)


def test_too_few_examples_to_hold_any_out():
    probe = fit_linear_probe(np.eye(3), np.arange(3), num_classes=3)
    assert probe.l2 == L2_OF_FEW_EXAMPLES
    assert linear_accuracy(probe, np.eye(3), np.arange(3)) == 1.0
