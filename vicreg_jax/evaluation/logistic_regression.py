"""Multinomial logistic regression, solved to its optimum.

The optimum of a convex objective depends only on the data and the L2 weight. There is no learning rate, schedule, seed
or number of epochs to tune, so feature sets are compared on equal terms.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

_TOLERANCE = 1e-5  # nats of cross-entropy above the optimum
_MAX_STEPS = 1000
_LINE_SEARCH_STEPS = 5


class LinearClassifier(NamedTuple):
    """Class scores `features @ weights + bias`: `weights` `[dim, classes]`, `bias` `[classes]`, float32."""

    weights: jax.Array
    bias: jax.Array

    def scores(self, features: jax.Array) -> jax.Array:
        """Compute the class scores (logits) `[rows, classes]` of features `[rows, dim]`."""
        # A TPU multiplies float32 in bfloat16 by default.
        return jnp.matmul(features, self.weights, precision=jax.lax.Precision.HIGHEST) + self.bias[None]


def zero_classifier(dim: int, num_classes: int) -> LinearClassifier:
    """Create the classifier with all classes equally likely, the starting point of the solver."""
    return LinearClassifier(jnp.zeros((dim, num_classes), jnp.float32), jnp.zeros(num_classes, jnp.float32))


@jax.jit
def mean_cross_entropy(
    classifier: LinearClassifier, features: jax.Array, labels: jax.Array, sample_weights: jax.Array
) -> jax.Array:
    """Compute the mean of -log p(label) over rows, weighted by `sample_weights`.

    Args:
        classifier: the classifier to assess.
        features: as for `fit_logistic_regression`.
        labels: as for `fit_logistic_regression`.
        sample_weights: as for `fit_logistic_regression`.

    Returns:
        float32 scalar.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(classifier.scores(features), labels)
    return jnp.sum(losses * sample_weights) / jnp.sum(sample_weights)


@jax.jit
def fit_logistic_regression(
    features: jax.Array,
    labels: jax.Array,
    sample_weights: jax.Array,
    l2: jax.Array | float,
    initial: LinearClassifier,
    second_moment: jax.Array | None = None,
) -> LinearClassifier:
    r"""Minimize the L2-regularized mean cross-entropy.

    .. math::
        \frac{\sum_n w_n \, (-\log p_n(y_n))}{\sum_n w_n} + \frac{\mathrm{l2}}{2} \lVert W \rVert^2,
        \qquad p_n = \mathrm{softmax}(x_n W + b)

    The bias is not regularized. scikit-learn's `LogisticRegression(C=1 / (l2 * rows))` has the same optimum.

    The solver is nonlinear conjugate gradients (Polak and Ribiere) with an almost exact line search, which is cheap
    because class scores are linear in the weights: a step costs two products with the features. It stops when the
    squared gradient norm is below `2 * l2 * 1e-5`, which by strong convexity puts the objective within 1e-5 nats of the
    minimum, or after 1000 steps. Memory beyond the features is a few arrays `[rows, classes]`.

    Args:
        features: float32 `[rows, dim]`, standardized; the rows may be sharded over a mesh.
        labels: integers `[rows]`.
        sample_weights: `[rows]`, not negative; weight 0 excludes a row.
        l2: L2 weight, above 0.
        initial: starting point: `zero_classifier`, or, to converge sooner, the solution for a larger `l2`. Its shape
            sets the number of classes.
        second_moment: `features.T @ features / rows`, `[dim, dim]`, or an approximation: preconditions the steps, so
            that correlated features need far fewer. None: no preconditioning.

    Returns:
        The fitted classifier, float32.

    Source: Nocedal and Wright, Numerical optimization (2006), algorithm 5.4 with PR+ (5.45).
    """
    targets = jax.nn.one_hot(labels, initial.bias.shape[0])
    row_weights = (sample_weights / jnp.sum(sample_weights))[:, None]
    penalty = LinearClassifier(jnp.float32(l2), jnp.float32(0))

    def penalized(classifier: LinearClassifier) -> LinearClassifier:
        return jax.tree.map(jnp.multiply, penalty, classifier)

    def gradient(classifier: LinearClassifier, scores: jax.Array) -> LinearClassifier:
        error = row_weights * (jax.nn.softmax(scores) - targets)
        slopes = jnp.matmul(features.T, error, precision=jax.lax.Precision.HIGHEST)
        return optax.tree.add(LinearClassifier(slopes, jnp.sum(error, axis=0)), penalized(classifier))

    scores = initial.scores(features)
    inverse = None
    if second_moment is not None:
        # An approximation of the Hessian: equal uncertainty in all rows, and no coupling between classes.
        p = jax.nn.softmax(scores)
        curvature = jnp.sum(row_weights * p * (1 - p)) / p.shape[1]
        identity = jnp.eye(len(second_moment), dtype=second_moment.dtype)
        inverse = jax.scipy.linalg.solve(curvature * second_moment + l2 * identity, identity, assume_a="pos")

    def preconditioned(slope: LinearClassifier) -> LinearClassifier:
        if inverse is None:
            return slope
        return LinearClassifier(inverse @ slope.weights, slope.bias / (curvature + l2))

    def line_search(state: _Search, score_change: jax.Array) -> jax.Array:
        """Step length: the zero of the slope along the direction, by Newton steps within a bracket."""
        slope_of_penalty = optax.tree.vdot(penalized(state.direction), state.classifier)
        curvature_of_penalty = optax.tree.vdot(penalized(state.direction), state.direction)

        def newton(_: int, bracket: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            length, low, high = bracket
            p = jax.nn.softmax(state.scores + length * score_change)
            slope = jnp.sum(row_weights * (p - targets) * score_change)
            slope += slope_of_penalty + length * curvature_of_penalty
            deviation = score_change - jnp.sum(p * score_change, axis=1, keepdims=True)
            curvature = jnp.sum(row_weights * p * deviation**2) + curvature_of_penalty
            low, high = jnp.where(slope < 0, length, low), jnp.where(slope < 0, high, length)
            guess = length - slope / curvature
            halfway = jnp.where(jnp.isinf(high), 2 * length + 1, (low + high) / 2)
            return jnp.where((guess > low) & (guess < high), guess, halfway), low, high

        zero = jnp.float32(0)
        return jax.lax.fori_loop(0, _LINE_SEARCH_STEPS, newton, (zero, zero, jnp.float32(jnp.inf)))[0]

    def step(state: _Search) -> _Search:
        score_change = state.direction.scores(features)
        length = line_search(state, score_change)
        classifier = optax.tree.add_scale(state.classifier, length, state.direction)
        scores = state.scores + length * score_change
        new = gradient(classifier, scores)
        down = optax.tree.scale(-1.0, preconditioned(new))
        conjugacy = optax.tree.vdot(down, optax.tree.sub(new, state.gradient)) / optax.tree.vdot(
            state.down, state.gradient
        )
        direction = optax.tree.add_scale(down, jnp.maximum(conjugacy, 0.0), state.direction)
        # Rounding can turn the direction uphill; restart from steepest descent.
        uphill = optax.tree.vdot(direction, new) >= 0
        direction = jax.tree.map(lambda along, d: jnp.where(uphill, d, along), direction, down)
        return _Search(classifier, scores, new, down, direction, state.steps + 1)

    def is_unsolved(state: _Search) -> jax.Array:
        squared_gradient = optax.tree.vdot(state.gradient, state.gradient)
        return (squared_gradient > 2 * l2 * _TOLERANCE) & (state.steps < _MAX_STEPS)

    slope = gradient(initial, scores)
    down = optax.tree.scale(-1.0, preconditioned(slope))
    start = _Search(initial, scores, slope, down, down, jnp.int32(0))
    return jax.lax.while_loop(is_unsolved, step, start).classifier


class _Search(NamedTuple):
    classifier: LinearClassifier
    scores: jax.Array  # of all rows, updated without another product
    gradient: LinearClassifier
    down: LinearClassifier  # preconditioned steepest descent
    direction: LinearClassifier
    steps: jax.Array
