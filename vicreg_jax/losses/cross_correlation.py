r"""The diagonal and the off-diagonal square sum of a cross-correlation, the latter by `N x N` or `D x D` products.

With X and Y of N rows, :math:`C = X^\top Y / N`,

.. math:: \sum_{i, j} C_{ij}^2 = \langle X X^\top, Y Y^\top \rangle / N^2

and the diagonal is apart, a sum over the batch of elementwise products. The derivative of the off-diagonal sum by X is
:math:`2 (Y Y^\top X / N - Y \Delta) / N` with :math:`\Delta` that diagonal.
"""

from collections.abc import Callable, Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from vicreg_jax.losses.mapped_axis import axis_mean, axis_sum, gather_rows, global_batch, replicated_sharding
from vicreg_jax.losses.product import product


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
        gram_x = scale * product("nd,md->nm", x, rows_x)
        gram_y = scale * product("nd,md->nm", y, rows_y)
        diagonal = cross_correlation_diagonal(x, y, axis_name)
        square_sum = axis_sum(jnp.sum(gram_x * gram_y), axis_name) - jnp.sum(diagonal * diagonal)
        # Rounding can leave the difference below zero, which a sum of squares never is.
        return jnp.maximum(square_sum, 0), lambda: (
            product("nm,md->nd", 2 * scale * gram_y, rows_x) - y * (2 * scale * diagonal),
            product("nm,md->nd", 2 * scale * gram_x, rows_y) - x * (2 * scale * diagonal),
        )
    correlation = scale * axis_sum(product("nd,ne->de", x, y, out_sharding=replicated_sharding(x)), axis_name)
    off_diagonal = jnp.where(jnp.eye(dim, dtype=bool), 0, correlation)
    return jnp.sum(off_diagonal * off_diagonal), lambda: (
        product("ne,de->nd", y, 2 * scale * off_diagonal),
        product("nd,de->ne", x, 2 * scale * off_diagonal),
    )
