"""The linear probe: a linear classifier on frozen features."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

from vicreg_jax.evaluation.logistic_regression import (
    LinearClassifier,
    fit_logistic_regression,
    mean_cross_entropy,
    zero_classifier,
)
from vicreg_jax.evaluation.rows import first_rows, replicate, split_rows

# Candidates for the L2 weight, selected on held-out training examples; the fastest to solve comes first.
L2_GRID = (1e-1, 1e-2, 1e-3, 1e-4)
L2_OF_FEW_EXAMPLES = 1e-2  # if there are too few examples to hold any out
HELD_OUT_EVERY = 5  # one training example in five is held out
STD_FLOOR = 0.5  # fraction of the root mean square of the dimensions' standard deviations


class Standardizer(NamedTuple):
    """Maps features to zero mean and about unit standard deviation: `(features - mean) / scale`, both `[dim]`."""

    mean: jax.Array
    scale: jax.Array

    def __call__(self, features: ArrayLike) -> jax.Array:
        """Standardize features `[rows, dim]`, to float32 `[rows, dim]`."""
        return (jnp.asarray(features, jnp.float32) - self.mean[None]) / self.scale[None]


class LinearProbe(NamedTuple):
    """A linear classifier, the standardization of its features, and the L2 weight of its fit."""

    standardizer: Standardizer
    classifier: LinearClassifier
    l2: float

    def predict(self, features: ArrayLike, *, sharding: NamedSharding | None = None) -> jax.Array:
        """Predict the class with the largest score.

        Args:
            features: `[rows, dim]`, any floating dtype.
            sharding: as for `fit_linear_probe`.

        Returns:
            int32 `[rows]`.
        """
        standardizer, classifier = replicate((self.standardizer, self.classifier), sharding)
        predictions = _predict(standardizer, classifier, split_rows(features, sharding))
        return first_rows(predictions, np.shape(features)[0], sharding)


@jax.jit
def _predict(standardizer: Standardizer, classifier: LinearClassifier, features: ArrayLike) -> jax.Array:
    return jnp.argmax(classifier.scores(standardizer(features)), axis=1)


@partial(jax.jit, static_argnames="rows")
def standardize(features: ArrayLike, rows: int | None = None) -> tuple[Standardizer, jax.Array]:
    """Standardize each dimension by its mean and standard deviation (divided by n) over the rows.

    A standard deviation below `STD_FLOOR` times their root mean square over the dimensions is raised to that value:
    dimensions that hardly vary are mostly noise, which would be amplified. Constant dimensions become 0.

    Args:
        features: `[rows, dim]`, any floating dtype; the rows may be sharded.
        rows: the rows after the first `rows` are padding. None: no padding.

    Returns:
        The `Standardizer`, and the standardized features, float32 `[rows, dim]`.
    """
    features = jnp.asarray(features, jnp.float32)
    real = None if rows in (None, len(features)) else (jnp.arange(len(features)) < rows)[:, None]
    mean, variance = jnp.mean(features, axis=0, where=real), jnp.var(features, axis=0, where=real)
    typical = jnp.sqrt(jnp.mean(variance))
    scale = jnp.maximum(jnp.sqrt(variance), STD_FLOOR * typical)
    standardizer = Standardizer(mean, jnp.where(typical > 0, scale, 1.0))
    return standardizer, standardizer(features)


def fit_linear_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    *,
    num_classes: int,
    l2: float | None = None,
    sharding: NamedSharding | None = None,
) -> LinearProbe:
    """Fit a logistic regression on standardized features, with the L2 weight selected on training examples only.

    With `l2=None`, every fifth training example of each class (in a fixed random order) is held out, one classifier is
    fitted to the rest for each weight in `L2_GRID`, and the weight with the smallest held-out cross-entropy is refitted
    on all examples. With fewer than five examples the weight is `L2_OF_FEW_EXAMPLES`.

    Args:
        train_features: `[rows, dim]`, any floating dtype.
        train_labels: integers `[rows]` from 0 to num_classes - 1.
        num_classes: number of classes; some may have no example.
        l2: fixed L2 weight, above 0; see `fit_logistic_regression`. None: select it.
        sharding: splits the training rows over the devices of a mesh. Pass host arrays, the same in every process;
            every device gets the whole probe.

    Returns:
        The fitted `LinearProbe`.
    """
    labels = np.asarray(train_labels, np.int32)
    held_out = _held_out(labels)
    choose = l2 is None and held_out.any()
    standardizer, features = standardize(split_rows(train_features, sharding), len(labels))
    classifier = replicate(zero_classifier(features.shape[1], num_classes), sharding)
    labels, everything, kept, held_out = (
        split_rows(x, sharding) for x in (labels, np.ones_like(held_out), 1 - held_out, held_out)
    )
    second_moment = _second_moment(features, everything)
    if choose:
        smallest, best = np.inf, classifier
        for candidate in L2_GRID:
            # Warm start: consecutive optima are close.
            classifier = fit_logistic_regression(features, labels, kept, candidate, classifier, second_moment)
            cross_entropy = float(mean_cross_entropy(classifier, features, labels, held_out))
            if cross_entropy < smallest:
                smallest, l2, best = cross_entropy, candidate, classifier
        classifier = best
    l2 = L2_OF_FEW_EXAMPLES if l2 is None else l2
    classifier = fit_logistic_regression(features, labels, everything, l2, classifier, second_moment)
    return LinearProbe(standardizer, classifier, l2)


@jax.jit
def _second_moment(features: jax.Array, sample_weights: jax.Array) -> jax.Array:
    return features.T @ (features * sample_weights[:, None]) / jnp.sum(sample_weights)


def _held_out(labels: np.ndarray) -> np.ndarray:
    """1 for every fifth example of each class, in a fixed random order; 0 for the others."""
    by_class = np.lexsort((np.random.default_rng(0).random(len(labels)), labels))
    held_out = np.zeros(len(labels), np.float32)
    held_out[by_class[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]] = 1
    return held_out


def linear_accuracy(
    probe: LinearProbe, test_features: ArrayLike, test_labels: ArrayLike, *, sharding: NamedSharding | None = None
) -> float:
    """Compute the fraction of test rows that the probe classifies correctly.

    Args:
        probe: a fitted probe.
        test_features: `[rows, dim]`, any floating dtype.
        test_labels: integers `[rows]`.
        sharding: as for `fit_linear_probe`.

    Returns:
        The accuracy, from 0 to 1.
    """
    return float(np.mean(np.asarray(probe.predict(test_features, sharding=sharding)) == np.asarray(test_labels)))
