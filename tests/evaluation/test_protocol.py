import json

import numpy as np
import pytest

from vicreg_jax.evaluation.protocol import evaluate_features


@pytest.fixture(scope="module")
def digits():
    """scikit-learn's digits, as pixels in [0, 1]."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(1797), test_size=0.2, random_state=1, stratify=labels)
    pixels = (pixels / 16).astype(np.float32)
    return pixels[train], labels[train], pixels[test], labels[test]


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


def test_a_single_draw_has_no_spread(digits):
    results = evaluate_features(*digits, num_classes=10, labels_per_class=(2,), draws=1, neighbors=1)
    assert results["few_label_std"] == {"2": 0.0}


def test_what_does_not_fit_is_named(digits):
    train, train_labels, test, test_labels = digits
    with pytest.raises(ValueError, match="train_labels: got 0 to 9, takes 0 to 4"):
        evaluate_features(train, train_labels, test, test_labels, num_classes=5)
    with pytest.raises(ValueError, match="test_features, test_labels: got shapes"):
        evaluate_features(train, train_labels, test, test_labels[:-1], num_classes=10)
    with pytest.raises(ValueError, match="test_features: not all are finite"):
        evaluate_features(train, train_labels, test * np.nan, test_labels, num_classes=10)
