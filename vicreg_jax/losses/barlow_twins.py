"""Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny, ICML 2021, arXiv 2103.03230)."""

from collections.abc import Hashable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import as_embeddings, as_scalars, check_global_batch
from vicreg_jax.losses.centering import centered
from vicreg_jax.losses.cross_correlation import cross_correlation_diagonal, cross_correlation_off_diagonal
from vicreg_jax.losses.mapped_axis import global_batch
from vicreg_jax.losses.variance import variances


class BarlowTwinsLoss(NamedTuple):
    """The weighted loss and its two unweighted sums, scalars of the global batch."""

    loss: Array
    on_diagonal: Array
    off_diagonal: Array


def barlow_twins_loss(
    z_a: ArrayLike,
    z_b: ArrayLike,
    *,
    redundancy_weight: float | Array = 0.0051,
    epsilon: float | Array = 1e-5,
    axis_name: Hashable | None = None,
) -> BarlowTwinsLoss:
    r"""Distance of the two views' cross-correlation matrix from the identity.

    .. math:: \sum_i (C_{ii} - 1)^2 + \lambda \sum_{i \ne j} C_{ij}^2, \qquad
        C = \frac{1}{N} \hat Z_a^\top \hat Z_b, \qquad
        \hat z_j = \frac{z_j - \bar z_j}{\sqrt{\mathrm{Var}(z_j) + \epsilon}}

    with the biased variance (divisor N), as BatchNorm without scale and shift. Where N < D no :math:`D \times D` matrix
    is made: :math:`\sum_{ij} C_{ij}^2 = \langle \hat Z_a \hat Z_a^\top, \hat Z_b \hat Z_b^\top \rangle / N^2`.

    Args:
        z_a: embeddings of view a, `[batch, dim]`, any floating dtype; 16-bit ones are raised to float32.
        z_b: embeddings of view b, of the same shape.
        redundancy_weight: :math:`\lambda`.
        epsilon: added to the variance inside the square root.
        axis_name: None if the arrays are the global batch (plain, or sharded under `jax.jit`); else the
            mapped axis along which they are shards. Average parameter gradients over it (`lax.pmean`).

    Returns:
        `BarlowTwinsLoss(loss, on_diagonal, off_diagonal)`: float32 scalars (float64 for float64 embeddings) of the
        global batch, the same on every device; sums over dimensions and over pairs of dimensions, the last two
        unweighted.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]`, the shapes differ or the global batch is under 2 rows.

    Source: paper, equations 1 and 2; facebookresearch/barlowtwins, `main.py`, lines 205 to 220 (the paper's algorithm 1
    has the unbiased variance and no epsilon).

    >>> import jax
    >>> z_a, z_b = jax.random.normal(jax.random.key(0), (2, 256, 64))
    >>> terms = barlow_twins_loss(z_a, z_b)
    >>> print(f"{terms.loss:.2f}: {terms.on_diagonal:.2f}, {terms.off_diagonal:.2f}")
    64.97: 64.89, 15.44
    """
    z_a, z_b = as_embeddings(z_a=z_a, z_b=z_b)
    check_global_batch("z_a", z_a, axis_name)
    weight, epsilon = as_scalars(z_a.dtype, redundancy_weight=redundancy_weight, epsilon=epsilon)
    x_a, x_b = _standardized(z_a, epsilon, axis_name), _standardized(z_b, epsilon, axis_name)
    diagonal = cross_correlation_diagonal(x_a, x_b, axis_name)
    on_diagonal = jnp.sum(jnp.square(diagonal - 1))
    off_diagonal = cross_correlation_off_diagonal(x_a, x_b, axis_name)
    return BarlowTwinsLoss(on_diagonal + weight * off_diagonal, on_diagonal, off_diagonal)


def _standardized(z: Array, epsilon: Array, axis_name: Hashable | None) -> Array:
    variance = variances(z, global_batch(z, axis_name), axis_name)
    return centered(z, axis_name) * lax.rsqrt(variance + epsilon)
