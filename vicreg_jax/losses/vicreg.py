"""VICReg: variance, invariance and covariance (Bardes, Ponce, LeCun, ICLR 2022, arXiv 2105.04906)."""

from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import FINITE, NOT_NEGATIVE, as_batch, as_scalars, check_global_batch, no_arithmetic
from vicreg_jax.losses.covariance import covariance_off_diagonal, unbiased_off_diagonal, variances
from vicreg_jax.losses.global_batch import GlobalBatch


class VICRegLoss(NamedTuple):
    """The weighted loss and its three unweighted terms: scalars of the global batch.

    Attributes:
        loss: the weighted sum of the three terms.
        invariance: `invariance_term` of the two views.
        variance: the mean of `variance_term` over the two views.
        covariance: the sum of `covariance_term` over the two views.
    """

    loss: Array
    invariance: Array
    variance: Array
    covariance: Array

    __add__ = __radd__ = __mul__ = __rmul__ = no_arithmetic  # type: ignore[misc, assignment]


def vicreg_loss(
    z_a: ArrayLike,
    z_b: ArrayLike,
    *,
    invariance_weight: float | Array = 25.0,
    variance_weight: float | Array = 25.0,
    covariance_weight: float | Array = 1.0,
    target_std: float | Array = 1.0,
    epsilon: float | Array = 1e-4,
    unbiased_covariance: bool = False,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> VICRegLoss:
    r"""VICReg loss of two views' embeddings, as the official code defines it.

    .. math:: \lambda\, s(Z_a, Z_b) + \mu\, \tfrac{1}{2} [v(Z_a) + v(Z_b)] + \nu\, [c(Z_a) + c(Z_b)]

    with :math:`s, v, c` as in `invariance_term`, `variance_term` and `covariance_term`. The paper does not
    halve the variance: its :math:`\mu` is half of the one here.

    Args:
        z_a: embeddings of view a, `[batch, dim]`, any floating dtype; 16-bit embeddings are promoted to float32.
        z_b: embeddings of view b, with the same shape.
        invariance_weight: :math:`\lambda`.
        variance_weight: :math:`\mu`.
        covariance_weight: :math:`\nu`.
        target_std: the hinge: a dimension with a smaller standard deviation is penalized.
        epsilon: added to the variance inside the square root.
        unbiased_covariance: whether to use the unbiased estimate in the covariance term, see `covariance_term`. Static.
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If fewer
            than two count (four with `unbiased_covariance`, for the covariance), all variances and covariances are 0,
            as for constant embeddings.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which it is sharded. Average the parameter gradients over it (`lax.pmean`).

    Returns:
        `VICRegLoss(loss, invariance, variance, covariance)`: scalars, float32 (float64 for float64 embeddings), of the
        global batch; the same on every device. The last three are unweighted: `variance` is the mean over the two
        views, `covariance` their sum.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]`, the shapes differ, or the global batch has fewer than 2 rows
            (4 with `unbiased_covariance`).

    Source: paper, equation 6 and algorithm 1; facebookresearch/vicreg, `main_vicreg.py`, lines 198 to 219.

    >>> import jax
    >>> z_a, z_b = jax.random.normal(jax.random.key(0), (2, 256, 64))
    >>> terms = vicreg_loss(z_a, z_b)
    >>> print(f"{terms.loss:.2f}: {terms.invariance:.2f}, {terms.variance:.2f}, {terms.covariance:.2f}")
    51.45: 2.02, 0.02, 0.51
    """
    batch, (z_a, z_b) = as_batch(where, axis_name, z_a=z_a, z_b=z_b)
    check_global_batch("z_a", batch, z_a, min_rows=4 if unbiased_covariance else 2)
    target_std, epsilon = as_scalars(z_a.dtype, NOT_NEGATIVE, target_std=target_std, epsilon=epsilon)
    invariance_weight, variance_weight, covariance_weight = as_scalars(
        z_a.dtype,
        FINITE,
        invariance_weight=invariance_weight,
        variance_weight=variance_weight,
        covariance_weight=covariance_weight,
    )
    off_diagonal, dim = unbiased_off_diagonal if unbiased_covariance else covariance_off_diagonal, z_a.shape[1]
    invariance = batch.mean(jnp.square(z_a - z_b))
    variance = _variance(z_a, target_std, epsilon, batch) / 2 + _variance(z_b, target_std, epsilon, batch) / 2
    covariance = off_diagonal(z_a, batch) / dim + off_diagonal(z_b, batch) / dim
    loss = invariance_weight * invariance + variance_weight * variance + covariance_weight * covariance
    return VICRegLoss(loss, invariance, variance, covariance)


def invariance_term(
    z_a: ArrayLike, z_b: ArrayLike, *, where: ArrayLike | None = None, axis_name: Hashable | None = None
) -> Array:
    r"""Mean squared difference of two views.

    .. math:: s(Z_a, Z_b) = \frac{1}{N D} \|Z_a - Z_b\|_F^2

    Args:
        z_a: embeddings of view a, `[batch, dim]`, any floating dtype.
        z_b: embeddings of view b, with the same shape.
        where: as in `vicreg_loss`.
        axis_name: as in `vicreg_loss`.

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the global batch and over dimensions.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]` or the shapes differ.

    Source: paper, algorithm 1 (equation 5 lacks the 1/D); `main_vicreg.py`, line 198.

    >>> import jax.numpy as jnp
    >>> print(invariance_term(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])))
    2.0
    """
    batch, (z_a, z_b) = as_batch(where, axis_name, z_a=z_a, z_b=z_b)
    return batch.mean(jnp.square(z_a - z_b))


def variance_term(
    z: ArrayLike,
    *,
    target_std: float | Array = 1.0,
    epsilon: float | Array = 1e-4,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    r"""Hinge on the standard deviation of each dimension over the batch, for one view.

    .. math:: v(Z) = \frac{1}{D} \sum_j \max\bigl(0,\ \gamma - \sqrt{\mathrm{Var}(z_j) + \epsilon}\bigr)

    with the unbiased variance (divisor N - 1).

    Args:
        z: embeddings of one view, `[batch, dim]`, any floating dtype.
        target_std: :math:`\gamma`.
        epsilon: :math:`\epsilon`; it keeps the gradient finite if a dimension is constant.
        where: as in `vicreg_loss`.
        axis_name: as in `vicreg_loss`.

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over dimensions. `vicreg_loss` averages it over
        the two views.

    Raises:
        TypeError: if the dtype is not floating-point.
        ValueError: if the shape is not `[batch, dim]` or the global batch has fewer than 2 rows.

    Source: paper, equations 1 and 2; `main_vicreg.py`, lines 205 to 207.

    >>> import jax.numpy as jnp
    >>> print(variance_term(jnp.ones((8, 4))))  # collapsed: 1 - sqrt(1e-4)
    0.99
    """
    batch, (z,) = as_batch(where, axis_name, z=z)
    check_global_batch("z", batch, z)
    target_std, epsilon = as_scalars(z.dtype, NOT_NEGATIVE, target_std=target_std, epsilon=epsilon)
    return _variance(z, target_std, epsilon, batch)


def covariance_term(
    z: ArrayLike, *, unbiased: bool = False, where: ArrayLike | None = None, axis_name: Hashable | None = None
) -> Array:
    r"""Squared covariances between different dimensions, for one view.

    .. math:: c(Z) = \frac{1}{D} \sum_{i \ne j} C(Z)_{ij}^2, \qquad
        C(Z) = \frac{1}{N - 1} (Z - \bar Z)^\top (Z - \bar Z)

    For independent features of unit variance its expectation is :math:`(D - 1) / (N - 1)`, not zero, so
    values at different batch sizes are not comparable. If N < D, no :math:`D \times D` matrix is built.

    Args:
        z: embeddings of one view, `[batch, dim]`, any floating dtype.
        unbiased: whether to replace each squared covariance by its unbiased estimate. The expectation is then the same
            at every batch size, 0 for independent features. A single value may be negative, and a network that can fit
            the batch itself drives it down without bound. Static.
        where: as in `vicreg_loss`.
        axis_name: as in `vicreg_loss`.

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the sum over pairs of dimensions, divided by D.
        `vicreg_loss` sums it over the two views.

    Raises:
        TypeError: if the dtype is not floating-point.
        ValueError: if the shape is not `[batch, dim]` or the global batch has fewer than 2 rows (4 if unbiased).

    Source: paper, equations 3 and 4; `main_vicreg.py`, lines 209 to 214. The fast forms and their sources are in
    `vicreg_jax.losses.covariance`.

    >>> import jax.numpy as jnp
    >>> z = jnp.array([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])  # variances 1, covariance 1
    >>> print(f"{covariance_term(z):.3f}")
    1.000

    The textbook form, which builds the D x D matrix:

    >>> c = jnp.cov(z, rowvar=False)
    >>> textbook = jnp.sum(jnp.square(c - jnp.diag(jnp.diag(c)))) / z.shape[1]
    >>> print(f"{textbook:.3f}")
    1.000
    """
    batch, (z,) = as_batch(where, axis_name, z=z)
    check_global_batch("z", batch, z, min_rows=4 if unbiased else 2)
    off_diagonal = unbiased_off_diagonal if unbiased else covariance_off_diagonal
    return off_diagonal(z, batch) / z.shape[1]


def _variance(z: Array, target_std: Array, epsilon: Array, batch: GlobalBatch) -> Array:
    std = jnp.sqrt(variances(z, batch, 1) + epsilon)
    return jnp.mean(jax.nn.relu(target_std - std))
