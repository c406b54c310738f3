"""Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny, ICML 2021, arXiv 2103.03230)."""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import (
    FINITE,
    NOT_NEGATIVE,
    as_batch,
    as_scalars,
    check_global_batch,
    known,
    no_arithmetic,
)
from vicreg_jax.losses.covariance import centered, column_means, variances, without_means
from vicreg_jax.losses.global_batch import GlobalBatch
from vicreg_jax.losses.gram import einsum, inner_products, largest, merge, split, thin_product, without_diagonal

Pair = tuple[Array, Array]  # one array of each view


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

    __add__ = __radd__ = __mul__ = __rmul__ = no_arithmetic  # type: ignore[misc, assignment]


def barlow_twins_loss(
    z_a: ArrayLike,
    z_b: ArrayLike,
    *,
    redundancy_weight: float | Array = 0.0051,
    epsilon: float | Array = 1e-5,
    where: ArrayLike | None = None,
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
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If fewer
            than two count, every correlation is 0, as for constant embeddings.
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
    batch, (z_a, z_b) = as_batch(where, axis_name, z_a=z_a, z_b=z_b)
    check_global_batch("z_a", batch, z_a)
    (weight,) = as_scalars(z_a.dtype, FINITE, redundancy_weight=redundancy_weight)
    (epsilon,) = as_scalars(z_a.dtype, NOT_NEGATIVE, epsilon=epsilon)
    views, (scale_a, scale_b) = (z_a, z_b), (_rsqrt(variances(z, batch, 0) + epsilon)[None] for z in (z_a, z_b))
    diagonal = (scale_a * scale_b)[0] * cross_covariance_diagonal(z_a, z_b, batch)
    on_diagonal = jnp.sum(jnp.square(diagonal - 1))
    off_diagonal = cross_correlation_off_diagonal(views, (scale_a, scale_b), batch)
    return BarlowTwinsLoss(on_diagonal + weight * off_diagonal, on_diagonal, off_diagonal)


@jax.custom_jvp
def _rsqrt(x: Array) -> Array:
    return lax.rsqrt(x)


@_rsqrt.defjvp
def _rsqrt_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    root = _rsqrt(*primals)
    # One factor at a time: the cube of the root underflows where the embeddings are around 1e13.
    return root, -0.5 * (root * (root * (root * tangents[0])))


# With the custom derivative the tangent uses the same centered embeddings, as that of `variances` does.
@jax.custom_jvp
def cross_covariance_diagonal(z_a: Array, z_b: Array, batch: GlobalBatch) -> Array:
    """Compute the covariance of each dimension of view a with the same one of view b, `[dim]`, with divisor N."""
    return batch.mean(centered(z_a, batch) * centered(z_b, batch), axis=0)


@cross_covariance_diagonal.defjvp
def _cross_covariance_diagonal_jvp(
    primals: tuple[Array, Array, GlobalBatch], tangents: tuple[Array, Array, GlobalBatch]
) -> tuple[Array, Array]:
    z_a, z_b, batch = primals
    x, y = centered(z_a, batch), centered(z_b, batch)
    return batch.mean(x * y, axis=0), batch.mean(tangents[0] * y + x * tangents[1], axis=0)


@jax.custom_jvp
def cross_correlation_off_diagonal(views: Pair, scales: Pair, batch: GlobalBatch) -> Array:
    r"""Sum the squared off-diagonal entries of the cross-correlation matrix of the global batch.

    .. math:: \sum_{i \ne j} C_{ij}^2, \qquad C = \frac{1}{N} X^\top Y

    with X and Y the two views, N rows each, centered and scaled. The textbook form, which builds the D x D matrix:

    >>> z_a, z_b = jax.random.normal(jax.random.key(0), (2, 8, 20))
    >>> x, y = z_a - jnp.mean(z_a, axis=0), z_b - jnp.mean(z_b, axis=0)
    >>> c = x.T @ y / len(x)
    >>> textbook = jnp.sum(jnp.square(c - jnp.diag(jnp.diag(c))))
    >>> scales = (jnp.ones((1, 20)), jnp.ones((1, 20)))
    >>> ours = cross_correlation_off_diagonal((z_a, z_b), scales, GlobalBatch(None, 8))
    >>> bool(jnp.allclose(ours, textbook, rtol=1e-5))
    True

    If N < D, two N x N Gram matrices are built instead:

    .. math:: \sum_{i \ne j} C_{ij}^2 = \frac{1}{N^2} \langle X X^\top, Y Y^\top \rangle - \sum_j C_{jj}^2

    The diagonal is a sum over the batch of elementwise products. The derivative with respect to X is
    :math:`2 (Y Y^\top X / N - Y \Delta) / N`, with :math:`\Delta` the diagonal of C. Its columns have mean zero, as
    those of X and Y do, so that centering does not change it. The dimensions with the largest :math:`C_{jj}^2` are kept
    out of both differences, as in `vicreg_jax.losses.covariance.covariance_off_diagonal`.

    Args:
        views: embeddings of both views, each `[batch, dim]`, float32 or wider. Under a named axis each device
            multiplies only its own rows.
        scales: the factor of each centered dimension, `[1, dim]` for each view.
        batch: the rows that count.

    Returns:
        A scalar in the dtype of the embeddings, reduced over the global batch and over pairs of dimensions; the same on
        every device.
    """
    return _square_sum_and_gradients(views, scales, batch)[0]


@cross_correlation_off_diagonal.defjvp
def _cross_correlation_off_diagonal_jvp(
    primals: tuple[Pair, Pair, GlobalBatch], tangents: tuple[Pair, Pair, GlobalBatch]
) -> tuple[Array, Array]:
    square_sum, (by_x, by_y) = _square_sum_and_gradients(*primals)
    views, scales, batch = primals
    tangent = jnp.zeros((), square_sum.dtype)
    for gradient, z, scale, z_dot, scale_dot in zip((by_x, by_y), views, scales, *tangents[:2], strict=True):
        tangent += jnp.sum(gradient() * (z_dot * scale + centered(z, batch) * scale_dot))
    return square_sum, batch.axis_sum(tangent)


def _square_sum_and_gradients(
    views: Pair, scales: Pair, batch: GlobalBatch
) -> tuple[Array, tuple[Callable[[], Array], Callable[[], Array]]]:
    """Return the sum, and functions that compute this shard's rows of its gradients with respect to X and to Y."""
    # Scale the small arrays: a scaled copy of the embeddings would take more memory.
    by_count = 1 / batch.count(views[0].dtype, minimum=1)
    if not known(lambda: batch.rows < views[0].shape[1]):
        x, y = (centered(z, batch) * scale for z, scale in zip(views, scales, strict=True))
        correlation = without_diagonal(by_count * batch.axis_sum(inner_products(x, y)))
        return jnp.sum(correlation * correlation), (
            lambda: einsum("ne,de->nd", y, 2 * by_count * correlation),
            lambda: einsum("nd,de->ne", x, 2 * by_count * correlation),
        )
    diagonal = scales[0] * scales[1] * cross_covariance_diagonal(*views, batch)[None]
    positions = largest(jnp.square(diagonal[0]))
    _, diagonal = split(diagonal, positions)
    (large_x, x), (large_y, y) = (_split_view(*view, positions, batch) for view in zip(views, scales, strict=True))
    rows_x, rows_y, large_rows_x, large_rows_y = map(batch.gather, (x, y, large_x, large_y))
    gram_x, gram_y = (by_count * einsum("nd,md->nm", *z) for z in ((x, rows_x), (y, rows_y)))
    large_gram_x, large_gram_y = (
        by_count * thin_product(*z) for z in ((large_x, large_rows_x), (large_y, large_rows_y))
    )
    correlation = without_diagonal(by_count * batch.axis_sum(inner_products(large_x, large_y)))
    square_sum = batch.axis_sum(jnp.sum(gram_x * gram_y)) - jnp.sum(diagonal * diagonal)
    square_sum = jnp.maximum(square_sum, 0)  # rounding can make a difference negative; a sum of squares never is
    square_sum += batch.axis_sum(jnp.sum(gram_x * large_gram_y + large_gram_x * gram_y))
    square_sum += jnp.sum(correlation * correlation)

    def by_x() -> Array:
        of_rest = einsum("nm,md->nd", 2 * by_count * (gram_y + large_gram_y), rows_x)
        of_large = einsum("nm,mk->nk", 2 * by_count * gram_y, large_rows_x)
        of_large += einsum("ne,de->nd", large_y, 2 * by_count * correlation)
        return merge(of_large, of_rest, positions) - y * (2 * by_count * diagonal)

    def by_y() -> Array:
        of_rest = einsum("nm,md->nd", 2 * by_count * (gram_x + large_gram_x), rows_y)
        of_large = einsum("nm,mk->nk", 2 * by_count * gram_x, large_rows_y)
        of_large += einsum("nd,de->ne", large_x, 2 * by_count * correlation)
        return merge(of_large, of_rest, positions) - x * (2 * by_count * diagonal)

    return square_sum, (by_x, by_y)


def _split_view(z: Array, scale: Array, positions: Array, batch: GlobalBatch) -> tuple[Array, Array]:
    """Center, scale and split a view, with no copy of all its centered embeddings in memory."""
    means = column_means(z, batch)
    (large, _), (large_scale, rest_scale), *large_means = (split(array, positions) for array in (z, scale, *means))
    large = without_means(large, [mean for mean, _ in large_means], batch)
    return large * large_scale, without_means(z, means, batch) * rest_scale
