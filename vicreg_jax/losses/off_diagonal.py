r"""The off-diagonal square sum of `X^T X`, by the smaller of the `N x N` and the `D x D` product.

.. math:: \sum_{i \ne j} (X^\top X)_{ij}^2 = \|X X^\top\|_F^2 - \sum_j (X^\top X)_{jj}^2

(Garrido et al., arXiv 2206.02574, theorem 3.3). The derivative is :math:`4 (X X^\top X - X \Delta)` with
:math:`\Delta` the diagonal of :math:`X^\top X`: one product with the matrix at hand; autodiff takes two.
"""

from collections.abc import Callable, Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from vicreg_jax.losses.mapped_axis import axis_size, axis_sum, gather_rows, replicated_sharding

# Full float32 where the hardware's default is less (bfloat16 on TPU, TF32 on GPU): the Gram form subtracts.
_product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


# A JVP rule rather than a VJP: as cheap in reverse, and forward mode and higher derivatives work as well.
@partial(jax.custom_jvp, nondiff_argnums=(1,))
def off_diagonal_square_sum(x: Array, axis_name: Hashable | None) -> Array:
    """Sum of the squared off-diagonal entries of `x^T x` over the global batch.

    Args:
        x: `[batch, dim]`, float32 or wider. Under a named axis each device multiplies its own rows only.
        axis_name: None if `x` is the global batch, else the mapped axis it is a shard of.

    Returns:
        A scalar in the dtype of `x`, the same on every device.
    """
    return _square_sum(x, axis_name)[0]


@off_diagonal_square_sum.defjvp
def _off_diagonal_square_sum_jvp(
    axis_name: Hashable | None, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    (x,), (x_dot,) = primals, tangents
    square_sum, quarter_gradient = _square_sum(x, axis_name)
    # Summed over the axis: the derivative of the global value, which every kind of mapped axis transposes.
    return square_sum, axis_sum(jnp.sum(4 * quarter_gradient() * x_dot), axis_name)


def _square_sum(x: Array, axis_name: Hashable | None) -> tuple[Array, Callable[[], Array]]:
    """The value, and on demand a quarter of this shard's rows of its gradient."""
    batch, dim = x.shape[0] * axis_size(axis_name), x.shape[1]
    if batch < dim:
        rows = gather_rows(x, axis_name)
        gram = _product("nd,md->nm", x, rows)
        diagonal = axis_sum(jnp.sum(x * x, axis=0), axis_name)
        square_sum = axis_sum(jnp.sum(gram * gram), axis_name) - jnp.sum(diagonal * diagonal)
        # Rounding can leave the difference below zero, which a sum of squares never is.
        return jnp.maximum(square_sum, 0), lambda: _product("nm,md->nd", gram, rows) - x * diagonal
    moments = axis_sum(_product("nd,ne->de", x, x, out_sharding=replicated_sharding(x)), axis_name)
    off_diagonal = jnp.where(jnp.eye(dim, dtype=bool), 0, moments)
    return jnp.sum(off_diagonal * off_diagonal), lambda: _product("nd,de->ne", x, off_diagonal)
