"""FroSSL: the Frobenius norm as an entropy (Skean, Dhakal, Jacobs, Sanchez Giraldo, ECCV 2024, arXiv 2310.02903)."""

from collections.abc import Callable, Hashable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import (
    FINITE,
    as_batch_of_views,
    as_scalars,
    check_global_batch,
    known,
    no_arithmetic,
)
from vicreg_jax.losses.global_batch import GlobalBatch
from vicreg_jax.losses.gram import einsum, inner_products
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.losses.square_root import safe_sqrt


class FroSSLLoss(NamedTuple):
    """The weighted loss and its two unweighted terms: scalars of the global batch.

    Attributes:
        loss: `regularization + invariance_weight * invariance`.
        invariance: the squared distance of the views from their mean, averaged over the batch, summed over the rest.
        regularization: the sum over views of the logarithm of the squared Frobenius norm.
    """

    loss: Array
    invariance: Array
    regularization: Array

    __add__ = __radd__ = __mul__ = __rmul__ = no_arithmetic  # type: ignore[misc, assignment]


def frossl_loss(
    z: ArrayLike,
    *,
    invariance_weight: float | Array = 1.0,
    normalize: Literal["columns", "rows"] = "columns",
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> FroSSLLoss:
    r"""Log-Frobenius norm of each view's second moments, and distance of the views from their mean.

    .. math:: \sum_v \log \frac{\| U_v^\top U_v \|_F^2}{(\mathrm{tr}\, U_v^\top U_v)^2}
        + \lambda\, \frac{1}{N} \sum_v \| U_v - \bar U \|_F^2

    with :math:`U_v` the embeddings of view v, each column divided by its norm over the global batch, and
    :math:`\bar U` the mean over views. The first term is 0 if all embeddings are multiples of one vector, and
    :math:`-\log D` per view if the columns are orthogonal.

    Args:
        z: embeddings of all views, `[views, batch, dim]`, two views or more, any floating dtype.
        invariance_weight: :math:`\lambda`.
        normalize: "columns", over the batch as in the paper, or "rows", each embedding. Static.
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If fewer
            than two count, the first term is 0.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which the rows are sharded. Average the parameter gradients over it (`lax.pmean`).

    Returns:
        `FroSSLLoss(loss, invariance, regularization)`: scalars, float32 (float64 for float64 embeddings), of the
        global batch; the same on every device. The last two are unweighted.

    Raises:
        TypeError: if the dtype is not floating-point.
        ValueError: if the shape is not `[views, batch, dim]` with at least two views, the global batch has fewer than
            2 rows, or `normalize` is neither "columns" nor "rows".

    Source: paper, algorithm 1; OFSkean/FroSSL, `solo/losses/frossl.py`.

    >>> z = jax.random.normal(jax.random.key(0), (2, 256, 64))
    >>> terms = frossl_loss(z)
    >>> print(f"{terms.loss:.2f}: {terms.invariance:.2f}, {terms.regularization:.2f}")
    -7.62: 0.25, -7.87

    The textbook form, which builds a D x D matrix for each view:

    >>> u = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    >>> c = jnp.einsum("vnd,vne->vde", u, u) / 64
    >>> textbook = 2 * jnp.sum(jnp.log(jnp.linalg.norm(c, axis=(1, 2)))) + 2 * 64 * jnp.mean((u - u.mean(axis=0)) ** 2)
    >>> bool(jnp.allclose(terms.loss, textbook, rtol=1e-5))
    True
    """
    batch, views = as_batch_of_views(where, axis_name, z)
    check_global_batch("z", batch, views[0])
    (weight,) = as_scalars(views[0].dtype, FINITE, invariance_weight=invariance_weight)
    if normalize not in ("columns", "rows"):
        raise ValueError(f"normalize must be one of columns, rows; got {normalize!r}")
    u = [l2_normalize(z) if normalize == "rows" else _unit_columns(z, batch) for z in views]
    regularization = jnp.sum(jnp.stack([_log_concentration(view, batch) for view in u]))
    stacked = jnp.stack(u)
    distance = batch.mean(jnp.square(stacked - jnp.mean(stacked, axis=0)[None]))
    invariance = distance * (len(u) * stacked.shape[2])
    return FroSSLLoss(regularization + weight * invariance, invariance, regularization)


def _unit_columns(z: Array, batch: GlobalBatch) -> Array:
    norm = safe_sqrt(batch.sum(jnp.square(z)))[None]
    return z / jnp.where(norm == 0, 1, norm)


def _log_concentration(u: Array, batch: GlobalBatch) -> Array:
    """Compute the logarithm of the squared Frobenius norm for trace 1; 0 if all is zero."""
    trace, square_sum = batch.axis_sum(jnp.sum(jnp.square(u))), product_square_sum(u, batch)
    is_zero = trace == 0
    return jnp.log(jnp.where(is_zero, 1, square_sum)) - 2 * jnp.log(jnp.where(is_zero, 1, trace))


@jax.custom_jvp
def product_square_sum(u: Array, batch: GlobalBatch) -> Array:
    r"""Sum the squared entries of the smaller of :math:`U^\top U` and :math:`U U^\top`, which are equal sums.

    The textbook form:

    >>> u = jax.random.normal(jax.random.key(0), (8, 20))
    >>> bool(jnp.allclose(product_square_sum(u, GlobalBatch(None, 8)), jnp.sum((u.T @ u) ** 2), rtol=1e-5))
    True

    The derivative is :math:`4 U U^\top U`: one product with the saved matrix.

    Args:
        u: `[batch, dim]`, float32 or wider. Under a named axis each device multiplies only its own rows.
        batch: the rows that count; the others are zero.

    Returns:
        A scalar in the dtype of `u`, reduced over the global batch; the same on every device.
    """
    return _square_sum_and_gradient(u, batch)[0]


@product_square_sum.defjvp
def _product_square_sum_jvp(
    primals: tuple[Array, GlobalBatch], tangents: tuple[Array, GlobalBatch]
) -> tuple[Array, Array]:
    square_sum, gradient = _square_sum_and_gradient(*primals)
    return square_sum, primals[1].axis_sum(jnp.sum(gradient() * tangents[0]))


def _square_sum_and_gradient(u: Array, batch: GlobalBatch) -> tuple[Array, Callable[[], Array]]:
    """Return the sum, and a function that computes this shard's rows of its gradient."""
    if not known(lambda: batch.rows < u.shape[1]):
        moments = batch.axis_sum(inner_products(u, u))
        return jnp.sum(jnp.square(moments)), lambda: einsum("nd,de->ne", u, 4 * moments)
    rows = batch.gather(u)
    gram = einsum("nd,md->nm", u, rows)
    return batch.axis_sum(jnp.sum(jnp.square(gram))), lambda: einsum("nm,md->nd", 4 * gram, rows)
