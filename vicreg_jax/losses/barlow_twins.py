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
    """The weighted loss and its two unweighted sums: scalars of the global batch.

    Attributes:
        loss: `on_diagonal + redundancy_weight * off_diagonal`.
        on_diagonal: the sum over dimensions of the squared distance of the correlation from 1.
        off_diagonal: the sum over pairs of different dimensions of the squared correlation.
    """

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

    with the biased variance (divisor N), as in BatchNorm without scale and shift. If N < D, no :math:`D \times D`
    matrix is built, see `cross_correlation_off_diagonal`.

    Args:
        z_a: embeddings of view a, `[batch, dim]`, any floating dtype; 16-bit embeddings are promoted to float32.
        z_b: embeddings of view b, with the same shape.
        redundancy_weight: :math:`\lambda`.
        epsilon: added to the variance inside the square root.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which it is sharded. Average the parameter gradients over it (`lax.pmean`).

    Returns:
        `BarlowTwinsLoss(loss, on_diagonal, off_diagonal)`: scalars, float32 (float64 for float64 embeddings), of the
        global batch; the same on every device. `on_diagonal` is summed over dimensions and `off_diagonal` over pairs
        of dimensions, both unweighted.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]`, the shapes differ, or the global batch has fewer than 2 rows.

    Source: paper, equations 1 and 2; facebookresearch/barlowtwins, `main.py`, lines 205 to 220 (the paper's algorithm 1
    uses the unbiased variance and no epsilon).

    >>> import jax
    >>> import jax.numpy as jnp
    >>> z_a, z_b = jax.random.normal(jax.random.key(0), (2, 256, 64))
    >>> terms = barlow_twins_loss(z_a, z_b)
    >>> print(f"{terms.loss:.2f}: {terms.on_diagonal:.2f}, {terms.off_diagonal:.2f}")
    64.97: 64.89, 15.44

    The textbook form, which builds the D x D matrix:

    >>> x_a, x_b = ((z - jnp.mean(z, axis=0)) / jnp.sqrt(jnp.var(z, axis=0) + 1e-5) for z in (z_a, z_b))
    >>> c = x_a.T @ x_b / len(z_a)
    >>> textbook = jnp.sum((jnp.diag(c) - 1) ** 2) + 0.0051 * jnp.sum((c - jnp.diag(jnp.diag(c))) ** 2)
    >>> bool(jnp.allclose(terms.loss, textbook, rtol=1e-5))
    True
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
    """Compute the diagonal of `x^T y / N` over the N rows of the global batch: `[batch, dim]` twice -> `[dim]`."""
    return axis_mean(jnp.mean(x * y, axis=0), axis_name)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def cross_correlation_off_diagonal(x: Array, y: Array, axis_name: Hashable | None) -> Array:
    r"""Sum the squared off-diagonal entries of the cross-correlation matrix of the global batch.

    .. math:: \sum_{i \ne j} C_{ij}^2, \qquad C = \frac{1}{N} X^\top Y

    with X and Y of N rows. The textbook form, which builds the D x D matrix:

    >>> x, y = jax.random.normal(jax.random.key(0), (2, 8, 20))
    >>> c = x.T @ y / len(x)
    >>> textbook = jnp.sum(jnp.square(c - jnp.diag(jnp.diag(c))))
    >>> bool(jnp.allclose(cross_correlation_off_diagonal(x, y, None), textbook, rtol=1e-5))
    True

    If N < D, two N x N Gram matrices are built instead:

    .. math:: \sum_{i \ne j} C_{ij}^2 = \frac{1}{N^2} \langle X X^\top, Y Y^\top \rangle - \sum_j C_{jj}^2

    The diagonal is a sum over the batch of elementwise products. The derivative with respect to X is
    :math:`2 (Y Y^\top X / N - Y \Delta) / N`, with :math:`\Delta` the diagonal of C.

    Args:
        x: `[batch, dim]`, float32 or wider. Under a named axis each device multiplies only its own rows.
        y: the same shape and dtype.
        axis_name: None if the arrays hold the global batch, otherwise the mapped axis over which it is sharded.

    Returns:
        A scalar in the dtype of `x`, reduced over the global batch and over pairs of dimensions; the same on every
        device.
    """
    return _square_sum_and_gradients(x, y, axis_name)[0]


@cross_correlation_off_diagonal.defjvp
def _cross_correlation_off_diagonal_jvp(
    axis_name: Hashable | None, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    square_sum, gradients = _square_sum_and_gradients(*primals, axis_name)
    x_tangent, y_tangent = (jnp.sum(gradient * dot) for gradient, dot in zip(gradients(), tangents, strict=True))
    return square_sum, axis_sum(x_tangent + y_tangent, axis_name)


def _square_sum_and_gradients(
    x: Array, y: Array, axis_name: Hashable | None
) -> tuple[Array, Callable[[], tuple[Array, Array]]]:
    """Return the sum, and a function that computes this shard's rows of its gradients with respect to x and y."""
    batch, dim = global_batch(x, axis_name), x.shape[1]
    # Scale the small arrays: a scaled copy of the embeddings would take more memory.
    scale = 1 / batch
    if batch < dim:
        rows_x, rows_y = gather_rows(x, axis_name), gather_rows(y, axis_name)
        gram_x = scale * einsum("nd,md->nm", x, rows_x)
        gram_y = scale * einsum("nd,md->nm", y, rows_y)
        diagonal = cross_correlation_diagonal(x, y, axis_name)
        square_sum = axis_sum(jnp.sum(gram_x * gram_y), axis_name) - jnp.sum(diagonal * diagonal)
        # Rounding can make the difference negative; a sum of squares never is.
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
