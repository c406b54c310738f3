"""Few-label accuracy: a linear classifier fitted to a few labeled examples per class."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

from vicreg_jax.evaluation.features import LabeledFeatures
from vicreg_jax.evaluation.linear_probe import Standardizer, standardize
from vicreg_jax.evaluation.logistic_regression import (
    LinearClassifier,
    fit_logistic_regression,
    zero_classifier,
)
from vicreg_jax.evaluation.rows import replicate, split_rows

LABELS_PER_CLASS = (1, 5, 10)
DRAWS = 10
L2 = 1e-2  # fixed: one label per class leaves nothing to choose it on


class LabeledExamples(NamedTuple):
    """Draws of training examples: `indices` int32 and `present` bool, both `[draws, classes, labels_per_class]`.

    A class with fewer than `labels_per_class` examples is used whole; `present` is False in the unused slots.
    """

    indices: np.ndarray
    present: np.ndarray


def draw_labeled_examples(
    labels: ArrayLike, *, num_classes: int, labels_per_class: int, draws: int = DRAWS, seed: int = 0
) -> LabeledExamples:
    """Draw the same number of examples from every class, at random and without replacement.

    The draws depend only on the labels and the seed, so every feature set gets the same ones. A draw with fewer labels
    is a prefix of the draw with more.

    Args:
        labels: integers `[rows]`; rows with labels outside 0 to num_classes - 1 are never drawn.
        num_classes: number of classes.
        labels_per_class: number of examples to draw per class.
        draws: number of draws.
        seed: seed of the random key, from 0 to 2**32 - 1.

    Returns:
        `LabeledExamples` of shape `[draws, num_classes, labels_per_class]`.

    Example:
        >>> examples = draw_labeled_examples([0, 0, 0, 1], num_classes=2, labels_per_class=2, draws=1)
        >>> examples.indices.shape, examples.present.tolist()
        ((1, 2, 2), [[[True, True], [True, False]]])
    """
    labels = np.asarray(labels)
    random_bits = np.asarray(jax.random.bits(jax.random.key(seed, impl="threefry2x32"), (draws, len(labels))))
    indices = np.zeros((draws, num_classes, labels_per_class), np.int32)
    present = np.zeros(indices.shape, bool)
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        count = min(len(members), labels_per_class)
        first = np.argsort(random_bits[:, members], axis=1, kind="stable")[:, :count]
        indices[:, label, :count] = members[first]
        present[:, label, :count] = True
    return LabeledExamples(indices, present)


def few_label_accuracies(
    train: LabeledFeatures,
    test: LabeledFeatures,
    *,
    num_classes: int,
    labels_per_class: Sequence[int] = LABELS_PER_CLASS,
    draws: int = DRAWS,
    seed: int = 0,
    sharding: NamedSharding | None = None,
) -> np.ndarray:
    """Compute the test accuracy of classifiers fitted to a few labeled examples per class.

    The classifier is `fit_logistic_regression` with the L2 weight 0.01. Features are standardized by all training
    features, which needs no labels.

    Args:
        train: features `[rows, dim]` and integer labels `[rows]`, from which the labeled examples are drawn.
        test: features `[rows, dim]` and integer labels `[rows]`, all of which are classified.
        num_classes: number of classes.
        labels_per_class: numbers of labeled examples per class.
        draws: as for `draw_labeled_examples`.
        seed: as for `draw_labeled_examples`.
        sharding: splits the rows of both splits, and of the drawn examples, over the devices of a mesh. Pass host
            arrays, the same in every process.

    Returns:
        float64 `[len(labels_per_class), draws]`, fractions of the test split.
    """
    (train_features, train_labels), (test_features, test_labels) = train, test
    max_labels = max(labels_per_class)
    indices, present = draw_labeled_examples(
        train_labels, num_classes=num_classes, labels_per_class=max_labels, draws=draws, seed=seed
    )
    counts = np.asarray(labels_per_class)[:, None, None, None]
    used = present & (np.arange(max_labels) < counts)  # [counts, draws, classes, max_labels]
    rows, dim = np.shape(train_features)
    standardizer, _ = standardize(split_rows(train_features, sharding), rows)
    drawn = _DrawnExamples(
        split_rows(np.asarray(train_features)[indices.reshape(draws, -1)], sharding, axis=1),
        split_rows(np.repeat(np.arange(num_classes, dtype=np.int32), max_labels), sharding),
        split_rows(used.reshape(len(counts), draws, -1).astype(np.float32), sharding, axis=2),
    )
    correct = _count_correct(
        standardizer,
        drawn,
        (split_rows(test_features, sharding), split_rows(np.asarray(test_labels), sharding)),
        np.shape(test_features)[0],
        L2,
        replicate(zero_classifier(dim, num_classes), sharding),
    )
    return np.asarray(correct) / np.shape(test_features)[0]


class _DrawnExamples(NamedTuple):
    features: jax.Array  # [draws, rows, dim]
    labels: jax.Array  # [rows], the same in all draws
    sample_weights: jax.Array  # [counts, draws, rows], 1 in the rows to fit, 0 in the others


@partial(jax.jit, static_argnames="test_rows")
def _count_correct(
    standardizer: Standardizer,
    drawn: _DrawnExamples,
    test: tuple[ArrayLike, ArrayLike],
    test_rows: int,
    l2: float,
    initial: LinearClassifier,
) -> jax.Array:
    """Fit all classifiers at once, and count the test rows that each gets right: `[counts, draws]`.

    Rows of `test` after the first `test_rows` are padding.
    """
    test_features, test_labels = test
    standardized, truth = standardizer(test_features), jnp.asarray(test_labels, jnp.int32)
    real = jnp.arange(len(truth)) < test_rows
    fit = jax.vmap(fit_logistic_regression, (None, None, 0, None, None))  # over counts
    fit = jax.vmap(fit, (0, None, 1, None, None), out_axes=1)  # over draws
    classifiers = fit(jax.vmap(standardizer.__call__)(drawn.features), drawn.labels, drawn.sample_weights, l2, initial)

    def correct(classifier: LinearClassifier) -> jax.Array:
        return jnp.sum((jnp.argmax(classifier.scores(standardized), axis=1) == truth) & real)

    # Sequentially, so that only one classifier's scores of the test split are in memory at a time.
    return jax.lax.map(lambda draws: jax.lax.map(correct, draws), classifiers)
