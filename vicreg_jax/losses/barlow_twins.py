"""Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny, ICML 2021, arXiv 2103.03230)."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import as_embeddings, as_scalars, check_global_batch
from vicreg_jax.losses.covariance import centered, einsum, variances
from vicreg_jax.losses.mapped_axis import axis_mean, axis_sum, gather_rows, global_batch, replicated_sharding


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


def cross_correlation_diagonal(x: Array, y: Array, axis_name: Hashable | None) -> Array:
    """The diagonal of `x^T y / N` over the global batch of N rows: `[batch, dim]` twice -> `[dim]`."""
    return axis_mean(jnp.mean(x * y, axis=0), axis_name)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def cross_correlation_off_diagonal(x: Array, y: Array, axis_name: Hashable | None) -> Array:
    """Sum of the squared off-diagonal entries of `x^T y / N` over the global batch of N rows.

    Args:
        x: `[batch, dim]`, float32 or wider. Under a named axis each device multiplies its own rows only.
        y: of the same shape and dtype.
        axis_name: None if the arrays are the global batch, else the mapped axis they are shards of.

    Returns:
        A scalar in the dtype of `x`, the same on every device.
    """
    return _square_sum(x, y, axis_name)[0]


@cross_correlation_off_diagonal.defjvp
def _cross_correlation_off_diagonal_jvp(
    axis_name: Hashable | None, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    square_sum, gradients = _square_sum(*primals, axis_name)
    of_x, of_y = (jnp.sum(gradient * dot) for gradient, dot in zip(gradients(), tangents, strict=True))
    return square_sum, axis_sum(of_x + of_y, axis_name)


def _square_sum(x: Array, y: Array, axis_name: Hashable | None) -> tuple[Array, Callable[[], tuple[Array, Array]]]:
    """The value, and on demand this shard's rows of its gradients by x and y."""
    batch, dim = global_batch(x, axis_name), x.shape[1]
    # Scales go with the small arrays: a scaled copy of the embeddings would be one more in memory.
    scale = 1 / batch
    if batch < dim:
        rows_x, rows_y = gather_rows(x, axis_name), gather_rows(y, axis_name)
        gram_x = scale * einsum("nd,md->nm", x, rows_x)
        gram_y = scale * einsum("nd,md->nm", y, rows_y)
        diagonal = cross_correlation_diagonal(x, y, axis_name)
        square_sum = axis_sum(jnp.sum(gram_x * gram_y), axis_name) - jnp.sum(diagonal * diagonal)
        # Rounding can leave the difference below zero, which a sum of squares never is.
        return jnp.maximum(square_sum, 0), lambda: (
            einsum("nm,md->nd", 2 * scale * gram_y, rows_x) - y * (2 * scale * diagonal),
            einsum("nm,md->nd", 2 * scale * gram_x, rows_y) - x * (2 * scale * diagonal),
        )
    correlation = scale * axis_sum(einsum("nd,ne->de", x, y, out_sharding=replicated_sharding(x)), axis_name)
    off_diagonal = jnp.where(jnp.eye(dim, dtype=bool), 0, correlation)
    return jnp.sum(off_diagonal * off_diagonal), lambda: (
        einsum("ne,de->nd", y, 2 * scale * off_diagonal),
        einsum("nd,de->ne", x, 2 * scale * off_diagonal),
    )
