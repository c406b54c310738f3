"""Ranks of labels and top-k accuracies against NumPy's sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.evaluation import label_ranks, top_k_accuracies


def test_ranks_are_those_of_a_sort():
    random = np.random.default_rng(0)
    logits, labels = random.standard_normal((4, 50, 12)).astype(np.float32), random.integers(0, 12, (4, 50))
    order = np.argsort(-logits, axis=-1)
    expected = np.argmax(order == labels[..., None], axis=-1)
    ranks = jax.jit(label_ranks)(logits, labels)
    np.testing.assert_array_equal(ranks, expected)
    found = top_k_accuracies(np.asarray(ranks[0]), 12)
    assert found["accuracy"] == np.mean(np.argmax(logits[0], axis=-1) == labels[0])
    assert found["top5_accuracy"] == np.mean([label in row[:5] for label, row in zip(labels[0], order[0], strict=True)])


@pytest.mark.parametrize("logits", [[1.0, 1.0, 1.0], [np.nan] * 3, [np.nan, 0.0, 0.0]])
def test_ties_and_nan_are_no_hit(logits):
    assert label_ranks(jnp.array([logits]), jnp.array([0])).tolist() == [2]


def test_top_5_of_five_classes_says_nothing():
    assert top_k_accuracies(np.array([0, 1, 3]), 5)["top5_accuracy"] is None
