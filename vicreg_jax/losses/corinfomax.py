"""CorInfoMax: log-determinants of running covariances (Ozsoy et al., NeurIPS 2022, arXiv 2209.07999)."""

from collections.abc import Hashable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from vicreg_jax.losses.arguments import (
    FINITE,
    NOT_NEGATIVE,
    PROBABILITY,
    as_batch,
    as_dtype,
    as_scalars,
    check_global_batch,
    no_arithmetic,
    widest_dtype,
)
from vicreg_jax.losses.global_batch import GlobalBatch
from vicreg_jax.losses.gram import inner_products

MARGIN = 8  # rounding errors of the Frobenius norm, the least that is added to the diagonal


class CorInfoMaxState(NamedTuple):
    """The running statistics of each view, which the loss takes and returns.

    Attributes:
        mean_a: `[dim]`.
        mean_b: `[dim]`.
        covariance_a: `[dim, dim]`.
        covariance_b: `[dim, dim]`.
    """

    mean_a: Array
    mean_b: Array
    covariance_a: Array
    covariance_b: Array


class CorInfoMaxLoss(NamedTuple):
    """The weighted loss and its two unweighted terms: scalars of the global batch.

    Attributes:
        loss: `invariance_weight * invariance - log_determinant`.
        invariance: the mean squared difference of the views.
        log_determinant: the sum over views of the covariance's log-determinant, divided by the dimension.
    """

    loss: Array
    invariance: Array
    log_determinant: Array

    __add__ = __radd__ = __mul__ = __rmul__ = no_arithmetic  # type: ignore[misc, assignment]


def corinfomax_state(dim: int, *, dtype: DTypeLike = jnp.float32) -> CorInfoMaxState:
    """Return the statistics to start from: mean 0 and covariance 1.

    >>> [x.shape for x in corinfomax_state(3)]
    [(3,), (3,), (3, 3), (3, 3)]

    Args:
        dim: dimension of the embeddings.
        dtype: float32, or float64 for everything in float64, as in the official code.

    Returns:
        The means of zeros, `[dim]`, and the covariances, `[dim, dim]` identities.

    Raises:
        ValueError: if `dim` is below 1.
    """
    if dim < 1:
        raise ValueError(f"dim must be at least 1; got {dim!r}")
    # No array twice, because a train step donates its state.
    means, covariances = [jnp.zeros(dim, dtype) for _ in range(2)], [jnp.eye(dim, dtype=dtype) for _ in range(2)]
    return CorInfoMaxState(*means, *covariances)


def corinfomax_loss(
    z_a: ArrayLike,
    z_b: ArrayLike,
    state: CorInfoMaxState,
    *,
    invariance_weight: float | Array = 250.0,
    decay: float | Array = 0.01,
    epsilon: float | Array = 1e-8,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> tuple[CorInfoMaxLoss, CorInfoMaxState]:
    r"""Mean squared difference of two views, and log-determinant of each view's running covariance.

    .. math:: \alpha\, \frac{1}{N D} \| Z_a - Z_b \|_F^2
        - \frac{1}{D} \sum_v \log \det (R_v + \epsilon I), \qquad
        R_v = \lambda R_v' + \frac{1 - \lambda}{N} (Z_v - \mu_v)^\top (Z_v - \mu_v), \qquad
        \mu_v = \lambda \mu_v' + (1 - \lambda) \bar z_v

    where :math:`R_v', \mu_v'` are the statistics of the last call. The gradient flows through both of the new ones.

    Args:
        z_a: embeddings of view a, `[batch, dim]`, any floating dtype; the published commands L2-normalize them.
        z_b: embeddings of view b, with the same shape.
        state: from the last call; `corinfomax_state(dim)` for the first. Its gradient is stopped. Under a named axis
            it is the same on every device.
        invariance_weight: :math:`\alpha`.
        decay: :math:`\lambda`, the weight of the old statistics, in [0, 1).
        epsilon: :math:`\epsilon`. In float32 the Cholesky factor needs more: at least 8 rounding errors of the
            Frobenius norm of R are added to its diagonal.
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If no row
            counts, the statistics stay as they are.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which it is sharded. Average the parameter gradients over it (`lax.pmean`).

    Returns:
        `CorInfoMaxLoss(loss, invariance, log_determinant)`: scalars, float32 (float64 if embeddings or state are), of
        the global batch; the same on every device. And the new state, in the dtype of the old one, without gradient.

    Raises:
        TypeError: if a dtype is not floating-point, or `state` is not a `CorInfoMaxState`.
        ValueError: if a shape is not `[batch, dim]`, the shapes differ, the state has another dimension, the global
            batch has fewer than 2 rows, `decay` is not in [0, 1), or another setting is not finite.

    Source: paper, algorithm 1; serdarozsoy/corinfomax-ssl, `cifars-tiny/loss.py`.

    >>> import jax
    >>> z_a, z_b = jax.random.normal(jax.random.key(0), (2, 256, 64))
    >>> terms, state = corinfomax_loss(z_a, z_b, corinfomax_state(64))
    >>> print(f"{terms.loss:.2f}: {terms.invariance:.2f}, {terms.log_determinant:.2f}")
    505.03: 2.02, -0.28

    The textbook form:

    >>> r_a, r_b = (0.01 * jnp.eye(64) + 0.99 * x.T @ x / 256 for x in (z - 0.99 * z.mean(axis=0) for z in (z_a, z_b)))
    >>> textbook = 250 * jnp.mean((z_a - z_b) ** 2) - (jnp.linalg.slogdet(r_a)[1] + jnp.linalg.slogdet(r_b)[1]) / 64
    >>> bool(jnp.allclose(terms.loss, textbook, rtol=1e-5))
    True
    """
    batch, views = as_batch(where, axis_name, z_a=z_a, z_b=z_b)
    check_global_batch("z_a", batch, views[0])
    statistics = _as_state(state, views[0].shape[1])
    dtype = widest_dtype(*views, *statistics)
    z_a, z_b = as_dtype(dtype, *views)
    mean_a, mean_b, covariance_a, covariance_b = as_dtype(dtype, *statistics)
    (weight,) = as_scalars(dtype, FINITE, invariance_weight=invariance_weight)
    (decay,) = as_scalars(dtype, PROBABILITY, decay=decay)
    (epsilon,) = as_scalars(dtype, NOT_NEGATIVE, epsilon=epsilon)
    mean_a, covariance_a = _updated(z_a, mean_a, covariance_a, decay, batch)
    mean_b, covariance_b = _updated(z_b, mean_b, covariance_b, decay, batch)
    invariance = batch.mean(jnp.square(z_a - z_b))
    log_determinants = _log_determinant(covariance_a, epsilon) + _log_determinant(covariance_b, epsilon)
    log_determinant = log_determinants / z_a.shape[1]
    terms = CorInfoMaxLoss(weight * invariance - log_determinant, invariance, log_determinant)
    new_state = [
        lax.stop_gradient(new).astype(old.dtype)
        for new, old in zip((mean_a, mean_b, covariance_a, covariance_b), statistics, strict=True)
    ]
    return terms, CorInfoMaxState(*new_state)


def _updated(z: Array, mean: Array, covariance: Array, decay: Array, batch: GlobalBatch) -> tuple[Array, Array]:
    """Return the new mean, and the new covariance about it."""
    rate = 1 - decay
    if batch.where is not None:
        rate = jnp.where(batch.count(z.dtype) > 0, rate, 0)
    mean = (1 - rate) * mean + rate * batch.mean(z, axis=0)
    x = batch.keep(z - mean[None])
    of_batch = batch.axis_sum(inner_products(x, x)) / batch.count(z.dtype, minimum=1)
    return mean, (1 - rate) * covariance + rate * of_batch


def _log_determinant(matrix: Array, epsilon: Array) -> Array:
    """Compute the log-determinant of a covariance plus `epsilon`, or what rounding errors need if that is more."""
    rounding = MARGIN * jnp.finfo(matrix.dtype).eps * jnp.sqrt(jnp.sum(jnp.square(lax.stop_gradient(matrix))))
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    factor = jnp.linalg.cholesky(matrix + jnp.maximum(epsilon, rounding) * identity)
    return 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))


def _as_state(state: CorInfoMaxState, dim: int) -> list[Array]:
    """Check the state, and stop its gradient."""
    if not isinstance(state, CorInfoMaxState):
        raise TypeError(f"state must be a CorInfoMaxState, as from corinfomax_state; got {type(state).__name__}")
    arrays = [jnp.asarray(x) for x in state]
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in arrays):
        raise TypeError(f"state must have floating-point dtypes; got {', '.join(str(x.dtype) for x in arrays)}")
    shapes = [x.shape for x in arrays]
    if shapes != [(dim,), (dim,), (dim, dim), (dim, dim)]:
        raise ValueError(f"state must have the embeddings' dimension, {dim}; got shapes {shapes}")
    return [lax.stop_gradient(x) for x in arrays]
