"""Second moments of the global batch: centering, variances and squared off-diagonal covariances."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from vicreg_jax.losses.arguments import known
from vicreg_jax.losses.global_batch import GlobalBatch
from vicreg_jax.losses.gram import einsum, inner_products, largest, merge, split, thin_product, without_diagonal


def centered(z: Array, batch: GlobalBatch) -> Array:
    """Subtract the global batch's mean from each column.

    The textbook form, which leaves the rounding error of the mean:

    >>> z = 1000 + jax.random.normal(jax.random.key(0), (8, 5))
    >>> textbook = z - jnp.mean(z, axis=0)
    >>> bool(jnp.allclose(centered(z, GlobalBatch(None, 8)), textbook, atol=1e-3))
    True

    Args:
        z: `[batch, dim]`, float32 or wider.
        batch: the rows that count.

    Returns:
        `[batch, dim]` in the dtype of `z`: this shard's rows; those that do not count are zero. The mean is reduced
        over the global batch.
    """
    return without_means(z, column_means(z, batch), batch)


def column_means(z: Array, batch: GlobalBatch) -> tuple[Array, Array]:
    """Return the mean of each column, `[1, dim]`, and the mean of what remains when it is subtracted.

    If the mean is much larger than the standard deviation, its rounding error remains: gradients show it, and a
    constant dimension is not zero. In exact arithmetic the second mean and its derivative are zero.
    """
    mean = batch.mean(z, axis=0)[None]
    return mean, lax.stop_gradient(batch.mean(batch.keep(z - mean), axis=0))[None]


def without_means(z: Array, means: Sequence[Array], batch: GlobalBatch) -> Array:
    """Subtract both means of `column_means`; rows that do not count are zero."""
    return batch.keep(z - means[0] - means[1])


# With the custom derivative the tangent uses the same centered embeddings: one pass over them fewer.
@partial(jax.custom_jvp, nondiff_argnums=(2,))
def variances(z: Array, batch: GlobalBatch, offset: int) -> Array:
    """Compute the variance of each dimension over the global batch.

    The textbook form:

    >>> z = jax.random.normal(jax.random.key(0), (8, 5))
    >>> textbook = jnp.var(z, axis=0, ddof=1)
    >>> bool(jnp.allclose(variances(z, GlobalBatch(None, 8), 1), textbook, rtol=1e-5))
    True

    Args:
        z: `[batch, dim]`, float32 or wider.
        batch: the rows that count.
        offset: 1 for the unbiased variance (divisor N - 1), 0 for the biased variance (divisor N). Static.

    Returns:
        `[dim]` in the dtype of `z`, reduced over the global batch; the same on every device. If too few rows count, 0.
    """
    return batch.sum(jnp.square(centered(z, batch))) / (batch.count(z.dtype, minimum=1 + offset) - offset)


@variances.defjvp
def _variances_jvp(
    offset: int, primals: tuple[Array, GlobalBatch], tangents: tuple[Array, GlobalBatch]
) -> tuple[Array, Array]:
    z, batch = primals
    x, divisor = centered(z, batch), batch.count(z.dtype, minimum=1 + offset) - offset
    return batch.sum(jnp.square(x)) / divisor, batch.sum(x * tangents[0]) / (divisor / 2)


# A JVP rule instead of a VJP rule: it costs the same in reverse, and supports forward mode and higher derivatives.
@jax.custom_jvp
def covariance_off_diagonal(z: Array, batch: GlobalBatch) -> Array:
    r"""Sum the squared off-diagonal entries of the unbiased covariance matrix of the global batch.

    .. math:: \sum_{i \ne j} C_{ij}^2, \qquad C = \frac{1}{N - 1} X^\top X

    with X the centered embeddings of N rows. The textbook form, which builds the D x D matrix:

    >>> z = jax.random.normal(jax.random.key(0), (8, 20))
    >>> c = jnp.cov(z, rowvar=False)
    >>> textbook = jnp.sum(jnp.square(c - jnp.diag(jnp.diag(c))))
    >>> bool(jnp.allclose(covariance_off_diagonal(z, GlobalBatch(None, 8)), textbook, rtol=1e-5))
    True

    If N < D, the N x N Gram matrix :math:`G = X X^\top / (N - 1)` is built instead:

    .. math:: \sum_{i \ne j} C_{ij}^2 = \|G\|_F^2 - \sum_j C_{jj}^2

    The derivative is :math:`4 (G X - X \Delta) / (N - 1)`, with :math:`\Delta` the diagonal of C: one product with the
    saved matrix, where automatic differentiation needs two. Its columns have mean zero, as the columns of X do, so it
    is also the derivative with respect to the embeddings before centering.

    A dimension of far larger variance than the others would leave nothing but rounding errors of both differences. So
    the `MAX_LARGE` dimensions L of largest variance are kept out of them. With R the rest and :math:`G = G_R + G_L`

    .. math:: \sum_{i \ne j} C_{ij}^2 = \|G_R\|_F^2 - \sum_{j \in R} C_{jj}^2 + 2 \langle G_R, G_L \rangle
        + \sum_{i \ne j \in L} C_{ij}^2

    The derivative is :math:`4 (G X_R - X_R \Delta_R) / (N - 1)` for the rest and
    :math:`4 (G_R X_L + X_L C_{L, i \ne j}) / (N - 1)` for L.

    Args:
        z: `[batch, dim]`, float32 or wider. Under a named axis each device multiplies only its own rows.
        batch: the rows that count.

    Returns:
        A scalar in the dtype of `z`, reduced over the global batch and over pairs of dimensions; the same on every
        device.

    Source: Garrido et al., arXiv 2206.02574, theorem 3.3.
    """
    return _square_sum_and_gradient(z, batch)[0]


@covariance_off_diagonal.defjvp
def _covariance_off_diagonal_jvp(
    primals: tuple[Array, GlobalBatch], tangents: tuple[Array, GlobalBatch]
) -> tuple[Array, Array]:
    (z, batch), (z_dot, _) = primals, tangents
    square_sum, gradient = _square_sum_and_gradient(z, batch)
    # Summed over the axis: the derivative of the global value, which every kind of mapped axis transposes correctly.
    return square_sum, batch.axis_sum(jnp.sum(gradient() * z_dot))


def _square_sum_and_gradient(z: Array, batch: GlobalBatch) -> tuple[Array, Callable[[], Array]]:
    """Return the sum, and a function that computes this shard's rows of its gradient."""
    # Scale the small arrays: a scaled copy of the embeddings would take more memory.
    scale, means = 1 / (batch.count(z.dtype, minimum=2) - 1), column_means(z, batch)
    x = without_means(z, means, batch)
    if not known(lambda: batch.rows < z.shape[1]):
        covariance = without_diagonal(scale * batch.axis_sum(inner_products(x, x)))
        return jnp.sum(covariance * covariance), lambda: einsum("nd,de->ne", x, 4 * scale * covariance)
    variance = scale * batch.sum(x * x)
    positions = largest(variance)
    # Split before the means are subtracted: only then is no copy of all centered embeddings in memory.
    (large, *large_means), (rest, *rest_means) = zip(*(split(y, positions) for y in (z, *means)), strict=True)
    large, rest = without_means(large, large_means, batch), without_means(rest, rest_means, batch)
    large_rows, rest_rows = batch.gather(large), batch.gather(rest)
    gram = scale * einsum("nd,md->nm", rest, rest_rows)
    large_gram = scale * thin_product(large, large_rows)
    covariance = without_diagonal(scale * batch.axis_sum(inner_products(large, large)))
    unit = _unit(variance)
    _, variance = split(variance[None], positions)
    square_sum = batch.axis_sum(jnp.sum(jnp.square(gram / unit))) - jnp.sum(jnp.square(variance / unit))
    square_sum = jnp.maximum(square_sum, 0)  # rounding can make a difference negative; a sum of squares never is
    square_sum += 2 * batch.axis_sum(jnp.sum((gram / unit) * (large_gram / unit)))
    square_sum += jnp.sum(jnp.square(covariance / unit))

    def gradient() -> Array:
        of_rest = einsum("nm,md->nd", 4 * scale * (gram + large_gram), rest_rows)
        of_large = einsum("nm,mk->nk", 4 * scale * gram, large_rows)
        of_large += einsum("nj,jk->nk", large, 4 * scale * covariance)
        return merge(of_large, of_rest, positions) - x * (4 * scale * variance)

    return unit * (unit * square_sum), gradient


def _unit(variance: Array) -> Array:
    """Return a number that the entries of the Gram matrix are divided by: 1 unless their squares might overflow."""
    total = jnp.sum(variance)
    return jnp.where(total > 1e15, total, 1)


def unbiased_off_diagonal(z: Array, batch: GlobalBatch) -> Array:
    r"""Estimate the sum of the population's squared off-diagonal covariances without bias.

    For the sample covariance C of N rows, :math:`C_{ij}^2` overestimates :math:`\Sigma_{ij}^2` by about
    :math:`\Sigma_{ii} \Sigma_{jj} / N`. With centered rows :math:`x_n` the unbiased estimate, for any distribution, is

    .. math:: \frac{N - 1}{N (N - 2) (N - 3)} \Bigl[(N - 1) (N - 2)\, C_{ij}^2 + C_{ii} C_{jj}
        - \frac{N}{N - 1} \sum_n x_{ni}^2 x_{nj}^2\Bigr]

    The textbook form, which builds three D x D matrices:

    >>> n, z = 8, jax.random.normal(jax.random.key(0), (8, 20))
    >>> c, x = jnp.cov(z, rowvar=False), z - jnp.mean(z, axis=0)
    >>> estimate = (n - 1) * (n - 2) * c**2 + jnp.outer(jnp.diag(c), jnp.diag(c)) - n / (n - 1) * (x**2).T @ x**2
    >>> textbook = (n - 1) / (n * (n - 2) * (n - 3)) * (jnp.sum(estimate) - jnp.trace(estimate))
    >>> bool(jnp.allclose(unbiased_off_diagonal(z, GlobalBatch(None, 8)), textbook, rtol=1e-4))
    True

    Here the second and third matrices are never built: their sums over :math:`i \ne j` are sums over rows and columns,
    see `pair_sum`.

    Args:
        z: `[batch, dim]`, float32 or wider; a global batch of at least 4 rows.
        batch: the rows that count.

    Returns:
        A scalar in the dtype of `z`, reduced over the global batch and over pairs of dimensions; the same on every
        device. It may be negative. If fewer than 4 rows count, it is 0.

    Source: summed over all i, j it is the estimator of :math:`\mathrm{tr}\, \Sigma^2` of Himeno and Yamada (Journal of
    Multivariate Analysis 130, 2014); each entry is unbiased separately.
    """
    n = 1.0 * batch.count(z.dtype, minimum=4)  # a float, for its square overflows int32
    x, variance = centered(z, batch), variances(z, batch, 1)
    positions = largest(lax.stop_gradient(variance))
    variance_products = pair_sum(variance[None], positions)[0]
    fourth_moments = batch.axis_sum(jnp.sum(pair_sum(jnp.square(x), positions))) / (n - 1)
    biased = (n - 1) * (n - 2) * covariance_off_diagonal(z, batch)
    estimate = (n - 1) / (n * (n - 2) * (n - 3)) * (biased + variance_products - n * fourth_moments)
    return estimate if batch.where is None else jnp.where(batch.count(z.dtype) >= 4, estimate, 0)


def pair_sum(x: Array, positions: Array) -> Array:
    r"""Sum the products of different columns, :math:`\sum_{i \ne j} x_{ni} x_{nj}`: `[batch, dim]` -> `[batch]`.

    The textbook form, which leaves only rounding errors if one column is far larger than the others:

    >>> x = jax.random.uniform(jax.random.key(0), (8, 20))
    >>> textbook = jnp.square(jnp.sum(x, axis=1)) - jnp.sum(jnp.square(x), axis=1)
    >>> bool(jnp.allclose(pair_sum(x, largest(x[0])), textbook, rtol=1e-5))
    True
    """
    large, rest = split(x, positions)
    rest_sum = jnp.sum(rest, axis=1)
    of_rest = jnp.square(rest_sum) - jnp.sum(jnp.square(rest), axis=1)
    of_large = jnp.sum(large * einsum("nk,kj->nj", large, 1 - jnp.eye(large.shape[1], dtype=x.dtype)), axis=1)
    return of_rest + 2 * rest_sum * jnp.sum(large, axis=1) + of_large
