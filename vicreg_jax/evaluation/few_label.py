"""Few labels a class: what the linear classifier reaches when hardly anything is labelled."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vicreg_jax.evaluation.linear_probe import standardize
from vicreg_jax.evaluation.logistic_regression import (
    LinearClassifier,
    fit_logistic_regression,
    zero_classifier,
)

LABELS_PER_CLASS = (1, 5, 10)
DRAWS = 10
L2 = 1e-2  # fixed: there is nothing to choose it on with one label a class


class LabelledExamples(NamedTuple):
    """Draws of training examples: `indices` int32 and `present` bool, both `[draws, classes, labels per
    class]`.

    A class that has fewer examples than that is used whole; the places left over have `present` False.
    """

    indices: np.ndarray
    present: np.ndarray


def draw_labelled_examples(
    labels: ArrayLike, *, num_classes: int, labels_per_class: int, draws: int = DRAWS, seed: int = 0
) -> LabelledExamples:
    """Draws the same number of examples from every class, at random and without replacement.

    The draws depend on the labels and the seed alone, so all feature sets are given the same ones; a draw of
    fewer labels is the beginning of the draw of more.

    Args:
      labels: integers `[rows]`; rows with another label than 0 to num_classes - 1 are never drawn.
      num_classes: of the labels.
      labels_per_class: how many to draw.
      draws: how often.
      seed: of the key, from 0 to 2**32 - 1.

    Example:
      >>> examples = draw_labelled_examples([0, 0, 0, 1], num_classes=2, labels_per_class=2, draws=1)
      >>> examples.indices.shape, examples.present.tolist()
      ((1, 2, 2), [[[True, True], [True, False]]])
    """
    labels = np.asarray(labels)
    lots = np.asarray(jax.random.bits(jax.random.key(seed), (draws, len(labels))))
    indices = np.zeros((draws, num_classes, labels_per_class), np.int32)
    present = np.zeros(indices.shape, bool)
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        count = min(len(members), labels_per_class)
        first = np.argsort(lots[:, members], axis=1, kind="stable")[:, :count]
        indices[:, label, :count] = members[first]
        present[:, label, :count] = True
    return LabelledExamples(indices, present)


def few_label_accuracies(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    num_classes: int,
    labels_per_class: Sequence[int] = LABELS_PER_CLASS,
    draws: int = DRAWS,
    seed: int = 0,
    l2: float = L2,
) -> np.ndarray:
    """The test accuracy of classifiers fitted to a few labelled examples of each class.

    The classifier is `fit_logistic_regression` with a fixed L2 weight. Features are standardised by all
    training features, which needs no labels.

    Args:
      train_features, train_labels: `[train, dim]` and integers `[train]`, from which examples are drawn.
      test_features, test_labels: `[test, dim]` and integers `[test]`, all of which are classified.
      num_classes: of the labels.
      labels_per_class: how many examples of each class are labelled; several counts.
      draws, seed: as for `draw_labelled_examples`.
      l2: of the classifier.

    Returns:
      float64 `[len(labels_per_class), draws]`, fractions.
    """
    most = max(labels_per_class)
    indices, present = draw_labelled_examples(
        train_labels, num_classes=num_classes, labels_per_class=most, draws=draws, seed=seed
    )
    counts = np.asarray(labels_per_class)[:, None, None, None]
    wanted = present & (np.arange(most) < counts)  # [counts, draws, classes, most]
    correct = _count_correct(
        train_features,
        indices.reshape(draws, -1),
        np.repeat(np.arange(num_classes, dtype=np.int32), most),
        wanted.reshape(len(counts), draws, -1).astype(np.float32),
        test_features,
        test_labels,
        l2,
        zero_classifier(np.shape(train_features)[1], num_classes),
    )
    return np.asarray(correct) / np.shape(test_features)[0]


@jax.jit
def _count_correct(
    train_features: ArrayLike,
    indices: jax.Array,
    labels: jax.Array,
    sample_weights: jax.Array,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    l2: float,
    initial: LinearClassifier,
) -> jax.Array:
    """How many test rows each classifier gets right, `[counts, draws]`; all are fitted at once.

    Args:
      indices: of the rows drawn, `[draws, rows]`; their labels are the same in all draws.
      sample_weights: 1 where the row is used, `[counts, draws, rows]`.
    """
    standardizer, features = standardize(train_features)
    standardized, truth = standardizer(test_features), jnp.asarray(test_labels)
    fit = jax.vmap(fit_logistic_regression, (None, None, 0, None, None))  # over counts
    fit = jax.vmap(fit, (0, None, 1, None, None), out_axes=1)  # over draws
    classifiers = fit(features[indices], labels, sample_weights, l2, initial)

    def correct(classifier: LinearClassifier) -> jax.Array:
        return jnp.sum(jnp.argmax(classifier.scores(standardized), axis=1) == truth)

    # One after another, so that no more than one classifier's scores of the test split exist at a time.
    return jax.lax.map(lambda draws: jax.lax.map(correct, draws), classifiers)
