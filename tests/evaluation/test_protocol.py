import json
import re

import numpy as np
import pytest

from vicreg_jax.evaluation.protocol import EvaluationSettings, evaluate_features


@pytest.fixture(scope="module")
def digits():
    """scikit-learn's digits, as pixels in [0, 1]."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(1797), test_size=0.2, random_state=1, stratify=labels)
    pixels = (pixels / 16).astype(np.float32)
    return (pixels[train], labels[train]), (pixels[test], labels[test])


@pytest.mark.slow
def test_raw_pixels_of_digits(digits):
    results = evaluate_features(*digits, num_classes=10)
    assert results["knn_accuracy"] == pytest.approx(355 / 360, abs=1.5 / 360)
    assert 0.955 < results["linear_accuracy"] < 0.98
    assert results["linear_l2"] in (1e-2, 1e-3, 1e-4)
    few, spread = results["few_label_accuracy"], results["few_label_std"]
    assert list(few) == list(spread) == ["1", "5", "10"]
    assert 0.5 < few["1"] < 0.7 < 0.82 < few["5"] < 0.89 < few["10"] < 0.93
    assert all(0.005 < spread[count] < 0.1 for count in spread)
    assert json.loads(json.dumps(results)) == results  # plain Python numbers


@pytest.mark.slow
def test_a_single_draw_has_no_spread():
    split = np.eye(4, dtype=np.float32).repeat(3, axis=0), np.arange(4).repeat(3)
    results = evaluate_features(split, split, EvaluationSettings(1, 0.07, (2,), 1), num_classes=4)
    assert results["few_label_std"] == {"2": 0.0}


def test_bad_features_are_named(digits):
    train, (test_features, test_labels) = digits
    for changed, num_classes, message in (
        ((test_features, test_labels), 5, "train must have labels from 0 to 4; got labels from 0 to 9"),
        ((test_features, test_labels[:-1]), 10, r"test must have features .*; got shapes \(360, 64\) and \(359,\)"),
        ((test_features * np.nan, test_labels), 10, "test must have finite features; got NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            evaluate_features(train, changed, num_classes=num_classes)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("knn_neighbors", 0, "at least 1"),
        ("knn_temperature", 0.0, "above 0"),
        ("labels_per_class", (), "hold integers of at least 1"),
        ("labels_per_class", (1, 0), "hold integers of at least 1"),
        ("draws", 0, "at least 1"),
    ],
)
def test_bad_settings_are_named(field, value, rule):
    with pytest.raises(ValueError, match=f"^{field} must .*{rule}; got {re.escape(repr(value))}$"):
        EvaluationSettings(**{field: value})
