"""What an accuracy is worth where the classes differ in size."""

import numpy as np
from jax.typing import ArrayLike


def balanced_accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Compute the accuracy of each class, and the mean over the classes.

    Args:
        predictions: classes `[rows]`, from 0.
        labels: true classes `[rows]`; those without a row do not count.

    Returns:
        The balanced accuracy, from 0 to 1.

    Example:
        >>> balanced_accuracy([0, 0, 0, 0], [0, 0, 0, 1])
        0.5
    """
    labels = np.asarray(labels)
    sizes = np.bincount(labels)
    correct = np.bincount(labels[np.asarray(predictions) == labels], minlength=len(sizes))
    return float(np.mean(correct[sizes > 0] / sizes[sizes > 0]))


def majority_accuracy(train_labels: ArrayLike, test_labels: ArrayLike) -> float:
    """Compute the accuracy of always predicting the most frequent training class; ties go to the smaller class.

    Args:
        train_labels: integers `[rows]`, from 0.
        test_labels: integers `[rows]`.

    Returns:
        The accuracy, from 0 to 1.

    Example:
        >>> majority_accuracy([0, 1, 1], [1, 1, 1, 0])
        0.75
    """
    return float(np.mean(np.asarray(test_labels) == np.argmax(np.bincount(np.asarray(train_labels)))))
