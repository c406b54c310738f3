import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from vicreg_jax.evaluation.few_label import L2, draw_labeled_examples, few_label_accuracies
from vicreg_jax.evaluation.linear_probe import standardize


@pytest.fixture
def labels():
    return np.random.default_rng(0).permutation(np.repeat(np.arange(4), [30, 12, 20, 3]))


def test_draws_are_balanced_and_without_replacement(labels):
    indices, present = draw_labeled_examples(labels, num_classes=4, labels_per_class=10, draws=6)
    assert indices.shape == present.shape == (6, 4, 10)
    for label in range(4):
        count = min(10, int(np.sum(labels == label)))
        np.testing.assert_array_equal(present[:, label].sum(1), count)
        for draw in range(6):
            drawn = indices[draw, label][present[draw, label]]
            assert len(set(drawn)) == count
            np.testing.assert_array_equal(labels[drawn], label)


def test_draws_depend_on_the_seed_alone(labels):
    first = draw_labeled_examples(labels, num_classes=4, labels_per_class=5, seed=3)
    again = draw_labeled_examples(labels, num_classes=4, labels_per_class=5, seed=3)
    np.testing.assert_array_equal(first.indices, again.indices)
    other = draw_labeled_examples(labels, num_classes=4, labels_per_class=5, seed=4)
    assert not np.array_equal(first.indices, other.indices)
    assert len(np.unique(first.indices[:, 0], axis=0)) == 10  # the draws differ from each other
    fewer = draw_labeled_examples(labels, num_classes=4, labels_per_class=2, seed=3)
    np.testing.assert_array_equal(fewer.indices, first.indices[:, :, :2])


def test_every_example_is_as_likely():
    labels = np.zeros(10, int)
    indices, _ = draw_labeled_examples(labels, num_classes=1, labels_per_class=2, draws=2000)
    counts = np.bincount(indices.ravel(), minlength=10)
    assert np.abs(counts - 400).max() < 80  # four and a half standard deviations


def test_rows_without_a_label_are_never_drawn():
    labels = np.array([-1, 0, -1, 1, 7])
    indices, present = draw_labeled_examples(labels, num_classes=2, labels_per_class=3, draws=4)
    assert set(indices[present]) == {1, 3}


@pytest.fixture
def split(labels):
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(4, 24))
    test_labels = rng.integers(0, 4, 150)
    features, test_features = (centers[x] + rng.normal(size=(len(x), 24)) for x in (labels, test_labels))
    return (features, labels), (test_features, test_labels)


SETTINGS = {"num_classes": 4, "labels_per_class": (1, 5), "draws": 3, "seed": 2}


def test_accuracies_equal_scikit_learns(split):
    (features, labels), (test_features, test_labels) = split
    actual = few_label_accuracies(*split, **SETTINGS)
    assert actual.shape == (2, 3)

    examples = draw_labeled_examples(labels, num_classes=4, labels_per_class=5, draws=3, seed=2)
    standardizer, _ = standardize(features)
    standardized, standardized_test = (np.asarray(standardizer(x), np.float64) for x in (features, test_features))
    for row, count in enumerate((1, 5)):
        for draw in range(3):
            drawn = examples.indices[draw, :, :count][examples.present[draw, :, :count]]
            reference = LogisticRegression(C=1 / (L2 * len(drawn)), tol=1e-8, max_iter=5000)
            reference.fit(standardized[drawn], labels[drawn])
            expected = reference.score(standardized_test, test_labels)
            assert abs(actual[row, draw] - expected) < 2.5 / 150  # two images may be on the decision boundary


def test_a_class_without_examples(split):
    (features, labels), (test_features, test_labels) = split
    kept = test_labels != 3
    merged = np.where(labels == 3, 2, labels)
    everywhere = few_label_accuracies((features, merged), (test_features, test_labels), **SETTINGS)
    assert (everywhere <= kept.mean()).all()  # a class without examples is never predicted
    assert (everywhere[1] > 0.8 * kept.mean()).all()
