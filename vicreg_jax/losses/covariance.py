r"""The off-diagonal square sum of a covariance, by the smaller of the `N x N` and the `D x D` product.

With centered embeddings X of N rows, :math:`C = X^\top X / (N - 1)` and :math:`G = X X^\top / (N - 1)`,

.. math:: \sum_{i \ne j} C_{ij}^2 = \|G\|_F^2 - \sum_j C_{jj}^2

(Garrido et al., arXiv 2206.02574, theorem 3.3). The derivative is :math:`4 (G X - X \Delta) / (N - 1)` with
:math:`\Delta` the diagonal of C: one product with the matrix at hand; autodiff takes two. Its columns have mean zero
as those of X have, so that it already is the derivative by the embeddings before centering.
"""

from collections.abc import Callable, Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from vicreg_jax.losses.centering import centered
from vicreg_jax.losses.mapped_axis import axis_sum, gather_rows, global_batch, replicated_sharding
from vicreg_jax.losses.product import product


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
    return _square_sum(centered(z, axis_name), axis_name)[0]


@covariance_off_diagonal.defjvp
def _covariance_off_diagonal_jvp(
    axis_name: Hashable | None, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    (z,), (z_dot,) = primals, tangents
    square_sum, gradient = _square_sum(centered(z, axis_name), axis_name)
    # Summed over the axis: the derivative of the global value, which every kind of mapped axis transposes.
    return square_sum, axis_sum(jnp.sum(gradient() * z_dot), axis_name)


def _square_sum(x: Array, axis_name: Hashable | None) -> tuple[Array, Callable[[], Array]]:
    """The value, and on demand this shard's rows of its gradient."""
    batch, dim = global_batch(x, axis_name), x.shape[1]
    # Scales go with the small arrays: a scaled copy of the embeddings would be one more in memory.
    scale = 1 / (batch - 1)
    if batch < dim:
        rows = gather_rows(x, axis_name)
        gram = scale * product("nd,md->nm", x, rows)
        variance = scale * axis_sum(jnp.sum(x * x, axis=0), axis_name)
        # Rounding can leave the difference below zero, which a sum of squares never is.
        value = jnp.maximum(axis_sum(jnp.sum(gram * gram), axis_name) - jnp.sum(variance * variance), 0)
        return value, lambda: product("nm,md->nd", 4 * scale * gram, rows) - x * (4 * scale * variance)
    covariance = scale * axis_sum(product("nd,ne->de", x, x, out_sharding=replicated_sharding(x)), axis_name)
    off_diagonal = jnp.where(jnp.eye(dim, dtype=bool), 0, covariance)
    return jnp.sum(off_diagonal * off_diagonal), lambda: product("nd,de->ne", x, 4 * scale * off_diagonal)
