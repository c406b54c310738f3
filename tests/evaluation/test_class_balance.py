import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from vicreg_jax.evaluation import balanced_accuracy, majority_accuracy


def test_balanced_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3], 200, p=[0.8, 0.15, 0.05])  # no row of class 2
    predictions = np.where(rng.random(200) < 0.7, labels, 0)
    expected = balanced_accuracy_score(labels, predictions)
    assert balanced_accuracy(predictions, labels) == pytest.approx(expected, abs=1e-12)
    assert abs(expected - np.mean(predictions == labels)) > 0.1


def test_majority_is_that_of_the_training_classes():
    assert majority_accuracy([0, 2, 2], [2, 0, 0, 0]) == 0.25
    assert majority_accuracy([1, 0], [0, 0, 0, 1]) == 0.75  # a tie
