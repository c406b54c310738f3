"""Second moments of the global batch: centering, variances and squared off-diagonal covariances."""

from collections.abc import Callable, Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from vicreg_jax.losses.mapped_axis import axis_mean, axis_sum, gather_rows, global_batch, replicated_sharding

# The default precision (bfloat16 on TPU, TF32 on GPU) is too low: the Gram form subtracts large sums.
einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def centered(z: Array, axis_name: Hashable | None) -> Array:
    """Subtract the global batch's mean from each column.

    The textbook form, which leaves the rounding error of the mean:

    >>> z = 1000 + jax.random.normal(jax.random.key(0), (8, 5))
    >>> textbook = z - jnp.mean(z, axis=0)
    >>> bool(jnp.allclose(centered(z, None), textbook, atol=1e-3))
    True

    Args:
        z: `[batch, dim]`, float32 or wider.
        axis_name: None if `z` holds the global batch, otherwise the mapped axis over which it is sharded.

    Returns:
        `[batch, dim]` in the dtype of `z`: this shard's rows. The mean is reduced over the global batch.
    """
    x = z - axis_mean(z.mean(axis=0), axis_name)
    # If the mean is much larger than the standard deviation, its rounding error remains: gradients show it, and a
    # constant dimension is not zero. In exact arithmetic this second mean and its derivative are zero.
    return x - lax.stop_gradient(axis_mean(x.mean(axis=0), axis_name))


# With the custom derivative the tangent uses the same centered embeddings: one pass over them fewer.
@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def variances(z: Array, divisor: float, axis_name: Hashable | None) -> Array:
    """Compute the variance of each dimension over the global batch, for a given divisor.

    The textbook form:

    >>> z = jax.random.normal(jax.random.key(0), (8, 5))
    >>> textbook = jnp.var(z, axis=0, ddof=1)
    >>> bool(jnp.allclose(variances(z, 8 - 1, None), textbook, rtol=1e-5))
    True

    Args:
        z: `[batch, dim]`, float32 or wider.
        divisor: N - 1 for the unbiased variance, N for the biased variance.
        axis_name: None if `z` holds the global batch, otherwise the mapped axis over which it is sharded.

    Returns:
        `[dim]` in the dtype of `z`, reduced over the global batch; the same on every device.
    """
    return _sum_over_batch(jnp.square(centered(z, axis_name)), divisor, axis_name)


@variances.defjvp
def _variances_jvp(
    divisor: float, axis_name: Hashable | None, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    x = centered(primals[0], axis_name)
    tangent = _sum_over_batch(x * tangents[0], divisor / 2, axis_name)
    return _sum_over_batch(jnp.square(x), divisor, axis_name), tangent


def _sum_over_batch(products: Array, divisor: float, axis_name: Hashable | None) -> Array:
    return axis_sum(jnp.sum(products, axis=0), axis_name) / divisor


# A JVP rule instead of a VJP rule: it costs the same in reverse, and supports forward mode and higher derivatives.
@partial(jax.custom_jvp, nondiff_argnums=(1,))
def covariance_off_diagonal(z: Array, axis_name: Hashable | None) -> Array:
    r"""Sum the squared off-diagonal entries of the unbiased covariance matrix of the global batch.

    .. math:: \sum_{i \ne j} C_{ij}^2, \qquad C = \frac{1}{N - 1} X^\top X

    with X the centered embeddings of N rows. The textbook form, which builds the D x D matrix:

    >>> z = jax.random.normal(jax.random.key(0), (8, 20))
    >>> c = jnp.cov(z, rowvar=False)
    >>> textbook = jnp.sum(jnp.square(c - jnp.diag(jnp.diag(c))))
    >>> bool(jnp.allclose(covariance_off_diagonal(z, None), textbook, rtol=1e-5))
    True

    If N < D, the N x N Gram matrix :math:`G = X X^\top / (N - 1)` is built instead:

    .. math:: \sum_{i \ne j} C_{ij}^2 = \|G\|_F^2 - \sum_j C_{jj}^2

    The derivative is :math:`4 (G X - X \Delta) / (N - 1)`, with :math:`\Delta` the diagonal of C: one product with the
    saved matrix, where automatic differentiation needs two. Its columns have mean zero, as the columns of X do, so it
    is also the derivative with respect to the embeddings before centering.

    Args:
        z: `[batch, dim]`, float32 or wider. Under a named axis each device multiplies only its own rows.
        axis_name: None if `z` holds the global batch, otherwise the mapped axis over which it is sharded.

    Returns:
        A scalar in the dtype of `z`, reduced over the global batch and over pairs of dimensions; the same on every
        device.

    Source: Garrido et al., arXiv 2206.02574, theorem 3.3.
    """
    return _square_sum_and_gradient(centered(z, axis_name), axis_name)[0]


@covariance_off_diagonal.defjvp
def _covariance_off_diagonal_jvp(
    axis_name: Hashable | None, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    (z,), (z_dot,) = primals, tangents
    square_sum, gradient = _square_sum_and_gradient(centered(z, axis_name), axis_name)
    # Summed over the axis: the derivative of the global value, which every kind of mapped axis transposes correctly.
    return square_sum, axis_sum(jnp.sum(gradient() * z_dot), axis_name)


def _square_sum_and_gradient(x: Array, axis_name: Hashable | None) -> tuple[Array, Callable[[], Array]]:
    """Return the sum for centered rows, and a function that computes this shard's rows of its gradient."""
    batch, dim = global_batch(x, axis_name), x.shape[1]
    # Scale the small arrays: a scaled copy of the embeddings would take more memory.
    scale = 1 / (batch - 1)
    if batch < dim:
        rows = gather_rows(x, axis_name)
        gram = scale * einsum("nd,md->nm", x, rows)
        variance = scale * axis_sum(jnp.sum(x * x, axis=0), axis_name)
        # Rounding can make the difference negative; a sum of squares never is.
        value = jnp.maximum(axis_sum(jnp.sum(gram * gram), axis_name) - jnp.sum(variance * variance), 0)
        return value, lambda: einsum("nm,md->nd", 4 * scale * gram, rows) - x * (4 * scale * variance)
    covariance = scale * axis_sum(einsum("nd,ne->de", x, x, out_sharding=replicated_sharding(x)), axis_name)
    off_diagonal = jnp.where(jnp.eye(dim, dtype=bool), 0, covariance)
    return jnp.sum(off_diagonal * off_diagonal), lambda: einsum("nd,de->ne", x, 4 * scale * off_diagonal)


def unbiased_off_diagonal(z: Array, axis_name: Hashable | None) -> Array:
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
    >>> bool(jnp.allclose(unbiased_off_diagonal(z, None), textbook, rtol=1e-4))
    True

    Here the second and third matrices are never built: their sums over :math:`i \ne j` are sums over rows and columns.

    Args:
        z: `[batch, dim]`, float32 or wider; a global batch of at least 4 rows.
        axis_name: None if `z` holds the global batch, otherwise the mapped axis over which it is sharded.

    Returns:
        A scalar in the dtype of `z`, reduced over the global batch and over pairs of dimensions; the same on every
        device. It may be negative.

    Source: summed over all i, j it is the estimator of :math:`\mathrm{tr}\, \Sigma^2` of Himeno and Yamada (Journal of
    Multivariate Analysis 130, 2014); each entry is unbiased separately.
    """
    n = float(global_batch(z, axis_name))  # the square overflows int32
    variance, squares = variances(z, n - 1, axis_name), jnp.square(centered(z, axis_name))
    variance_products = jnp.square(jnp.sum(variance)) - jnp.sum(jnp.square(variance))
    row_products = jnp.square(jnp.sum(squares, axis=1)) - jnp.sum(jnp.square(squares), axis=1)
    fourth_moments = axis_sum(jnp.sum(row_products), axis_name) / (n - 1)
    scale = (n - 1) / (n * (n - 2) * (n - 3))
    biased = (n - 1) * (n - 2) * covariance_off_diagonal(z, axis_name)
    return scale * (biased + variance_products - n * fourth_moments)
