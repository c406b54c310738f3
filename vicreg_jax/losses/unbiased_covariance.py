r"""The off-diagonal square sum of the population's covariance, estimated without bias.

With sample covariance C of N rows, :math:`C_{ij}^2` estimates :math:`\Sigma_{ij}^2` too high, by about
:math:`\Sigma_{ii} \Sigma_{jj} / N`. With centered rows :math:`x_n` the unbiased estimate is

.. math:: \frac{N - 1}{N (N - 2) (N - 3)} \Bigl[(N - 1) (N - 2)\, C_{ij}^2 + C_{ii} C_{jj}
    - \frac{N}{N - 1} \sum_n x_{ni}^2 x_{nj}^2\Bigr]

whatever the distribution: summed over all i, j it is the estimator of :math:`\mathrm{tr}\, \Sigma^2` of Himeno and
Yamada (Journal of Multivariate Analysis 130, 2014), and each entry holds by itself. Beside the biased sum it takes
sums over rows and columns only.
"""

from collections.abc import Hashable

import jax.numpy as jnp
from jax import Array

from vicreg_jax.losses.centering import centered
from vicreg_jax.losses.covariance import covariance_off_diagonal
from vicreg_jax.losses.mapped_axis import axis_sum, global_batch
from vicreg_jax.losses.variance import variances


def unbiased_off_diagonal(z: Array, axis_name: Hashable | None) -> Array:
    """Unbiased estimate of the sum of the population's squared covariances of different dimensions.

    Args:
        z: `[batch, dim]`, float32 or wider; a global batch of at least 4 rows.
        axis_name: None if `z` is the global batch, else the mapped axis it is a shard of.

    Returns:
        A scalar in the dtype of `z`, the same on every device; it may be negative.
    """
    n = float(global_batch(z, axis_name))  # as an int32 its square overflows
    variance, squares = variances(z, n - 1, axis_name), jnp.square(centered(z, axis_name))
    variance_products = jnp.square(jnp.sum(variance)) - jnp.sum(jnp.square(variance))
    row_products = jnp.square(jnp.sum(squares, axis=1)) - jnp.sum(jnp.square(squares), axis=1)
    fourth_moments = axis_sum(jnp.sum(row_products), axis_name) / (n - 1)
    scale = (n - 1) / (n * (n - 2) * (n - 3))
    biased = (n - 1) * (n - 2) * covariance_off_diagonal(z, axis_name)
    return scale * (biased + variance_products - n * fourth_moments)
