r"""The off-diagonal square sum of a cross-correlation, by the `N x N` or the `D x D` products.

.. math:: \sum_{i, j} (X^\top Y)_{ij}^2 = \langle X X^\top, Y Y^\top \rangle

The diagonal of :math:`X^\top Y` is apart, a sum over the batch of elementwise products. The derivative by X is
:math:`2 (Y Y^\top X - Y \Delta)` with :math:`\Delta` that diagonal.
"""

from collections.abc import Callable, Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from vicreg_jax.losses.mapped_axis import axis_size, axis_sum, gather_rows, replicated_sharding
from vicreg_jax.losses.product import product


def cross_correlation_diagonal(x: Array, y: Array, axis_name: Hashable | None) -> Array:
    """The diagonal of `x^T y` over the global batch: `[batch, dim]` twice -> `[dim]`."""
    return axis_sum(jnp.sum(x * y, axis=0), axis_name)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def cross_correlation_off_diagonal(x: Array, y: Array, axis_name: Hashable | None) -> Array:
    """Sum of the squared off-diagonal entries of `x^T y` over the global batch.

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
    square_sum, half_gradients = _square_sum(*primals, axis_name)
    of_x, of_y = (jnp.sum(2 * g * dot) for g, dot in zip(half_gradients(), tangents, strict=True))
    return square_sum, axis_sum(of_x + of_y, axis_name)


def _square_sum(x: Array, y: Array, axis_name: Hashable | None) -> tuple[Array, Callable[[], tuple[Array, Array]]]:
    """The value, and on demand half of this shard's rows of its gradients by x and y."""
    batch, dim = x.shape[0] * axis_size(axis_name), x.shape[1]
    if batch < dim:
        rows_x, rows_y = gather_rows(x, axis_name), gather_rows(y, axis_name)
        gram_x, gram_y = product("nd,md->nm", x, rows_x), product("nd,md->nm", y, rows_y)
        diagonal = cross_correlation_diagonal(x, y, axis_name)
        square_sum = axis_sum(jnp.sum(gram_x * gram_y), axis_name) - jnp.sum(diagonal * diagonal)
        # Rounding can leave the difference below zero, which a sum of squares never is.
        return jnp.maximum(square_sum, 0), lambda: (
            product("nm,md->nd", gram_y, rows_x) - y * diagonal,
            product("nm,md->nd", gram_x, rows_y) - x * diagonal,
        )
    correlation = axis_sum(product("nd,ne->de", x, y, out_sharding=replicated_sharding(x)), axis_name)
    off_diagonal = jnp.where(jnp.eye(dim, dtype=bool), 0, correlation)
    return jnp.sum(off_diagonal * off_diagonal), lambda: (
        product("ne,de->nd", y, off_diagonal),
        product("nd,de->ne", x, off_diagonal),
    )
