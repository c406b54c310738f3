"""Few labels a class: what the linear classifier reaches when hardly anything is labeled."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

from vicreg_jax.evaluation.linear_probe import Standardizer, standardize
from vicreg_jax.evaluation.logistic_regression import (
    LinearClassifier,
    fit_logistic_regression,
    zero_classifier,
)
from vicreg_jax.evaluation.rows import replicate, split_rows

LABELS_PER_CLASS = (1, 5, 10)
DRAWS = 10
L2 = 1e-2  # fixed: there is nothing to choose it on with one label a class


class LabeledExamples(NamedTuple):
    """Draws of training examples: `indices` int32 and `present` bool, both `[draws, classes, labels per
    class]`.

    A class that has fewer examples than that is used whole; the places left over have `present` False.
    """

    indices: np.ndarray
    present: np.ndarray


def draw_labeled_examples(
    labels: ArrayLike, *, num_classes: int, labels_per_class: int, draws: int = DRAWS, seed: int = 0
) -> LabeledExamples:
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
      >>> examples = draw_labeled_examples([0, 0, 0, 1], num_classes=2, labels_per_class=2, draws=1)
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
    return LabeledExamples(indices, present)


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
    sharding: NamedSharding | None = None,
) -> np.ndarray:
    """The test accuracy of classifiers fitted to a few labeled examples of each class.

    The classifier is `fit_logistic_regression` with a fixed L2 weight. Features are standardized by all
    training features, which needs no labels.

    Args:
      train_features, train_labels: `[train, dim]` and integers `[train]`, from which examples are drawn.
      test_features, test_labels: `[test, dim]` and integers `[test]`, all of which are classified.
      num_classes: of the labels.
      labels_per_class: how many examples of each class are labeled; several counts.
      draws, seed: as for `draw_labeled_examples`.
      l2: of the classifier.
      sharding: splits the rows of both splits, and of what is drawn, over the devices of a mesh. The arrays are then
        given on the host, the same in every process.

    Returns:
      float64 `[len(labels_per_class), draws]`, fractions.
    """
    most = max(labels_per_class)
    indices, present = draw_labeled_examples(
        train_labels, num_classes=num_classes, labels_per_class=most, draws=draws, seed=seed
    )
    counts = np.asarray(labels_per_class)[:, None, None, None]
    wanted = present & (np.arange(most) < counts)  # [counts, draws, classes, most]
    rows, dim = np.shape(train_features)
    standardizer, _ = standardize(split_rows(train_features, sharding), rows)
    correct = _count_correct(
        standardizer,
        split_rows(np.asarray(train_features)[indices.reshape(draws, -1)], sharding, axis=1),
        split_rows(np.repeat(np.arange(num_classes, dtype=np.int32), most), sharding),
        split_rows(wanted.reshape(len(counts), draws, -1).astype(np.float32), sharding, axis=2),
        split_rows(test_features, sharding),
        split_rows(np.asarray(test_labels), sharding),
        np.shape(test_features)[0],
        l2,
        replicate(zero_classifier(dim, num_classes), sharding),
    )
    return np.asarray(correct) / np.shape(test_features)[0]


@partial(jax.jit, static_argnames="test_rows")
def _count_correct(
    standardizer: Standardizer,
    drawn: jax.Array,
    labels: jax.Array,
    sample_weights: jax.Array,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    test_rows: int,
    l2: float,
    initial: LinearClassifier,
) -> jax.Array:
    """How many test rows each classifier gets right, `[counts, draws]`; all are fitted at once.

    Args:
      drawn: features `[draws, rows, dim]`; their labels are the same in all draws.
      sample_weights: 1 where the row is used, `[counts, draws, rows]`.
      test_rows: how many of the first test rows are real.
    """
    standardized, truth = standardizer(test_features), jnp.asarray(test_labels)
    real = jnp.arange(len(truth)) < test_rows
    fit = jax.vmap(fit_logistic_regression, (None, None, 0, None, None))  # over counts
    fit = jax.vmap(fit, (0, None, 1, None, None), out_axes=1)  # over draws
    classifiers = fit(standardizer(drawn), labels, sample_weights, l2, initial)

    def correct(classifier: LinearClassifier) -> jax.Array:
        return jnp.sum((jnp.argmax(classifier.scores(standardized), axis=1) == truth) & real)

    # One after another, so that no more than one classifier's scores of the test split exist at a time.
    return jax.lax.map(lambda draws: jax.lax.map(correct, draws), classifiers)
