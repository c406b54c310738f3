"""VICReg: variance, invariance and covariance (Bardes, Ponce, LeCun, ICLR 2022, arXiv 2105.04906)."""

from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import as_embeddings, as_scalars, check_global_batch
from vicreg_jax.losses.covariance import covariance_off_diagonal, unbiased_off_diagonal, variances
from vicreg_jax.losses.mapped_axis import axis_mean, global_batch


class VICRegLoss(NamedTuple):
    """The weighted loss and its three unweighted terms, scalars of the global batch."""

    loss: Array
    invariance: Array
    variance: Array
    covariance: Array


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
    axis_name: Hashable | None = None,
) -> VICRegLoss:
    r"""VICReg loss of two views' embeddings, as the official code defines it.

    .. math:: \lambda\, s(Z_a, Z_b) + \mu\, \tfrac{1}{2} [v(Z_a) + v(Z_b)] + \nu\, [c(Z_a) + c(Z_b)]

    with :math:`s, v, c` as in `invariance_term`, `variance_term` and `covariance_term`. The paper does not
    halve the variance: its :math:`\mu` is half of this one.

    Args:
        z_a: embeddings of view a, `[batch, dim]`, any floating dtype; 16-bit ones are raised to float32.
        z_b: embeddings of view b, of the same shape.
        invariance_weight: :math:`\lambda`.
        variance_weight: :math:`\mu`.
        covariance_weight: :math:`\nu`.
        target_std: the standard deviation below which a dimension is pushed apart.
        epsilon: added to the variance inside the square root.
        unbiased_covariance: whether the covariance term is the unbiased one, see `covariance_term`.
        axis_name: None if the arrays are the global batch (plain, or sharded under `jax.jit`); else the
            mapped axis along which they are shards. Average parameter gradients over it (`lax.pmean`).

    Returns:
        `VICRegLoss(loss, invariance, variance, covariance)`: float32 scalars (float64 for float64 embeddings)
        of the global batch, the same on every device. The last three are unweighted; variance is the mean and
        covariance the sum over the views.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]`, the shapes differ or the global batch is under 2 rows
            (4 with unbiased_covariance).

    Source: paper, equation 6 and algorithm 1; facebookresearch/vicreg, `main_vicreg.py`, lines 198 to 219.

    >>> import jax
    >>> z_a, z_b = jax.random.normal(jax.random.key(0), (2, 256, 64))
    >>> terms = vicreg_loss(z_a, z_b)
    >>> print(f"{terms.loss:.2f}: {terms.invariance:.2f}, {terms.variance:.2f}, {terms.covariance:.2f}")
    51.45: 2.02, 0.02, 0.51
    """
    z_a, z_b = as_embeddings(z_a=z_a, z_b=z_b)
    check_global_batch("z_a", z_a, axis_name, least=_least_rows(unbiased_covariance))
    target_std, epsilon = as_scalars(z_a.dtype, target_std=target_std, epsilon=epsilon)
    invariance_weight, variance_weight, covariance_weight = as_scalars(
        z_a.dtype,
        invariance_weight=invariance_weight,
        variance_weight=variance_weight,
        covariance_weight=covariance_weight,
    )
    invariance = _invariance(z_a, z_b, axis_name)
    variance = _variance(z_a, target_std, epsilon, axis_name) / 2 + _variance(z_b, target_std, epsilon, axis_name) / 2
    covariance = _covariance(z_a, unbiased_covariance, axis_name) + _covariance(z_b, unbiased_covariance, axis_name)
    loss = invariance_weight * invariance + variance_weight * variance + covariance_weight * covariance
    return VICRegLoss(loss, invariance, variance, covariance)


def invariance_term(z_a: ArrayLike, z_b: ArrayLike, *, axis_name: Hashable | None = None) -> Array:
    r"""Mean squared difference of two views, :math:`\frac{1}{N D} \|Z_a - Z_b\|_F^2`.

    Args:
        z_a: embeddings of view a, `[batch, dim]`, any floating dtype.
        z_b: embeddings of view b, of the same shape.
        axis_name: as in `vicreg_loss`.

    Returns:
        A scalar: the mean over global batch and dimensions.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]` or the shapes differ.

    Source: paper, algorithm 1 (equation 5 lacks the 1/D); `main_vicreg.py`, line 198.

    >>> import jax.numpy as jnp
    >>> print(invariance_term(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])))
    2.0
    """
    z_a, z_b = as_embeddings(z_a=z_a, z_b=z_b)
    return _invariance(z_a, z_b, axis_name)


def variance_term(
    z: ArrayLike,
    *,
    target_std: float | Array = 1.0,
    epsilon: float | Array = 1e-4,
    axis_name: Hashable | None = None,
) -> Array:
    r"""Hinge on the standard deviation of each dimension over the batch, for one view.

    .. math:: v(Z) = \frac{1}{D} \sum_j \max\bigl(0,\ \gamma - \sqrt{\mathrm{Var}(z_j) + \epsilon}\bigr)

    with the unbiased variance (divisor N - 1).

    Args:
        z: embeddings of one view, `[batch, dim]`, any floating dtype.
        target_std: :math:`\gamma`.
        epsilon: :math:`\epsilon`; it keeps the gradient finite where a dimension is constant.
        axis_name: as in `vicreg_loss`.

    Returns:
        A scalar: the mean over dimensions. `vicreg_loss` takes the mean of the two views.

    Raises:
        TypeError: if the dtype is not floating-point.
        ValueError: if the shape is not `[batch, dim]` or the global batch is under 2 rows.

    Source: paper, equations 1 and 2; `main_vicreg.py`, lines 205 to 207.

    >>> import jax.numpy as jnp
    >>> print(variance_term(jnp.ones((8, 4))))  # collapsed: 1 - sqrt(1e-4)
    0.99
    """
    (z,) = as_embeddings(z=z)
    check_global_batch("z", z, axis_name)
    target_std, epsilon = as_scalars(z.dtype, target_std=target_std, epsilon=epsilon)
    return _variance(z, target_std, epsilon, axis_name)


def covariance_term(z: ArrayLike, *, unbiased: bool = False, axis_name: Hashable | None = None) -> Array:
    r"""Squared covariances between different dimensions, for one view.

    .. math:: c(Z) = \frac{1}{D} \sum_{i \ne j} C(Z)_{ij}^2, \qquad
        C(Z) = \frac{1}{N - 1} (Z - \bar Z)^\top (Z - \bar Z)

    For independent features of unit variance its expectation is :math:`(D - 1) / (N - 1)`, not zero, so
    values at different batch sizes are not comparable. No :math:`D \times D` matrix is made where N < D; the
    rounding error is then relative to the sum over all i, j, which is larger where few dimensions have most variance.

    Args:
        z: embeddings of one view, `[batch, dim]`, any floating dtype.
        unbiased: if true, each squared covariance is replaced by its unbiased estimate. The expectation is then the
            same at every batch size, 0 for independent features, but a single value may be negative, and a network that
            can fit the batch itself drives it down without bound.
        axis_name: as in `vicreg_loss`.

    Returns:
        A scalar: summed over pairs of dimensions, divided by D. `vicreg_loss` takes the sum of the two views.

    Raises:
        TypeError: if the dtype is not floating-point.
        ValueError: if the shape is not `[batch, dim]` or the global batch is under 2 rows, under 4 if unbiased.

    Source: paper, equations 3 and 4; `main_vicreg.py`, lines 209 to 214; `vicreg_jax.losses.covariance`,
    `vicreg_jax.losses.unbiased_covariance`.

    >>> import jax.numpy as jnp
    >>> z = jnp.array([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])  # variances 1, covariance 1
    >>> print(f"{covariance_term(z):.3f}")
    1.000
    """
    (z,) = as_embeddings(z=z)
    check_global_batch("z", z, axis_name, least=_least_rows(unbiased))
    return _covariance(z, unbiased, axis_name)


def _invariance(z_a: Array, z_b: Array, axis_name: Hashable | None) -> Array:
    return axis_mean(jnp.mean(jnp.square(z_a - z_b)), axis_name)


def _variance(z: Array, target_std: Array, epsilon: Array, axis_name: Hashable | None) -> Array:
    std = jnp.sqrt(variances(z, global_batch(z, axis_name) - 1, axis_name) + epsilon)
    return jnp.mean(jax.nn.relu(target_std - std))


def _covariance(z: Array, unbiased: bool, axis_name: Hashable | None) -> Array:
    square_sum = (unbiased_off_diagonal if unbiased else covariance_off_diagonal)(z, axis_name)
    return square_sum / z.shape[1]


def _least_rows(unbiased: bool) -> int:
    return 4 if unbiased else 2
