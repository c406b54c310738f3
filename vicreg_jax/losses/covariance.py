r"""The off-diagonal square sum of a covariance, by the smaller of the `N x N` and the `D x D` product.

.. math:: \sum_{i \ne j} (X^\top X)_{ij}^2 = \|X X^\top\|_F^2 - \sum_j (X^\top X)_{jj}^2

(Garrido et al., arXiv 2206.02574, theorem 3.3). The derivative is :math:`4 (X X^\top X - X \Delta)` with
:math:`\Delta` the diagonal of :math:`X^\top X`: one product with the matrix at hand; autodiff takes two. Its
columns have mean zero as those of X have, so that it already is the derivative by the embeddings before centring.
"""

from collections.abc import Callable, Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from vicreg_jax.losses.mapped_axis import axis_mean, axis_size, axis_sum, gather_rows, replicated_sharding
from vicreg_jax.losses.product import product


def covariance_factor(z: Array, axis_name: Hashable | None) -> Array:
    r"""Return :math:`X = (Z - \bar Z) / \sqrt{N - 1}`: :math:`X^\top X` is then the unbiased covariance.

    The diagonal of that product, the variances, is the sum of squares of `X` over the batch. Scaling here, in
    floating point, leaves no :math:`(N - 1)^2 D` to overflow an int32 further on.

    Args:
        z: `[batch, dim]`, float32 or wider.
        axis_name: None if `z` is the global batch, else the mapped axis it is a shard of.

    Returns:
        `[batch, dim]` in the dtype of `z`; mean and N are the global batch's, rows are this shard's.
    """
    return (z - axis_mean(z.mean(axis=0), axis_name)) * _scale(z, axis_name)


# A JVP rule rather than a VJP: as cheap in reverse, and forward mode and higher derivatives work as well.
@partial(jax.custom_jvp, nondiff_argnums=(1,))
def covariance_off_diagonal(z: Array, axis_name: Hashable | None) -> Array:
    """Sum of the squared unbiased covariances of different dimensions over the global batch.

    Args:
        z: `[batch, dim]`, float32 or wider. Under a named axis each device multiplies its own rows only.
        axis_name: None if `z` is the global batch, else the mapped axis it is a shard of.

    Returns:
        A scalar in the dtype of `z`, the same on every device.
    """
    return _square_sum(covariance_factor(z, axis_name), axis_name)[0]


@covariance_off_diagonal.defjvp
def _covariance_off_diagonal_jvp(
    axis_name: Hashable | None, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    (z,), (z_dot,) = primals, tangents
    square_sum, gradient = _square_sum(covariance_factor(z, axis_name), axis_name)
    # Summed over the axis: the derivative of the global value, which every kind of mapped axis transposes.
    return square_sum, axis_sum(jnp.sum(gradient(4 * _scale(z, axis_name)) * z_dot), axis_name)


def _scale(z: Array, axis_name: Hashable | None) -> float:
    return float(z.shape[0] * axis_size(axis_name) - 1) ** -0.5


def _square_sum(x: Array, axis_name: Hashable | None) -> tuple[Array, Callable[[float], Array]]:
    """The value, and on demand `scale * (X X^T X - X Delta)` for this shard's rows."""
    batch, dim = x.shape[0] * axis_size(axis_name), x.shape[1]
    if batch < dim:
        rows = gather_rows(x, axis_name)
        gram = product("nd,md->nm", x, rows)
        variance = axis_sum(jnp.sum(x * x, axis=0), axis_name)
        square_sum = axis_sum(jnp.sum(gram * gram), axis_name) - jnp.sum(variance * variance)
        # Rounding can leave the difference below zero, which a sum of squares never is.
        return jnp.maximum(
            square_sum, 0
        ), lambda scale: product("nm,md->nd", scale * gram, rows) - x * (scale * variance)
    covariance = axis_sum(product("nd,ne->de", x, x, out_sharding=replicated_sharding(x)), axis_name)
    off_diagonal = jnp.where(jnp.eye(dim, dtype=bool), 0, covariance)
    return jnp.sum(off_diagonal * off_diagonal), lambda scale: product("nd,de->ne", x, scale * off_diagonal)
