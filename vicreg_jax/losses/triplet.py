"""The triplet loss on squared distances (Schroff, Kalenichenko, Philbin, CVPR 2015, arXiv 1503.03832)."""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import NOT_NEGATIVE, as_batch, as_scalars


def triplet_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    margin: float | Array = 1.0,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    r"""Hinge on the squared distance to the positive minus the squared distance to the negative.

    .. math:: \frac{1}{N} \sum_n \max\bigl(0,\ \|a_n - p_n\|^2 - \|a_n - n_n\|^2 + m\bigr)

    Embeddings are not normalized and triplets are not mined: each row is one triplet. FaceNet normalizes its embeddings
    and uses a margin of 0.2.

    Args:
        anchor: `[batch, dim]`, any floating dtype.
        positive: a row for each anchor, with the same shape.
        negative: a row for each anchor, with the same shape.
        margin: :math:`m`.
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If no row
            counts, the loss is 0.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which it is sharded. Average the parameter gradients over it (`lax.pmean`).

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the triplets, the same on every device.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]` or the shapes differ.

    Source: paper, equation 2, with the mean instead of the sum.

    >>> import jax.numpy as jnp
    >>> print(triplet_loss(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])))
    1.0
    """
    batch, (anchor, positive, negative) = as_batch(
        where, axis_name, anchor=anchor, positive=positive, negative=negative
    )
    (margin,) = as_scalars(anchor.dtype, NOT_NEGATIVE, margin=margin)
    scale = _scale(anchor, positive, negative)
    to_positive = jnp.sum(jnp.square((anchor - positive) / scale), axis=1)
    to_negative = jnp.sum(jnp.square((anchor - negative) / scale), axis=1)
    square = jnp.square(scale[:, 0])
    return batch.mean(batch.keep(jax.nn.relu(to_positive - to_negative + margin / square) * square))


def _scale(*embeddings: Array) -> Array:
    """Return the divisor of each row, `[batch, 1]`: 1 unless the squares of its entries might overflow.

    It is the root of the largest entry then, so that both the divided squares and the square of the divisor are finite.
    """
    max_entry = jnp.max(jnp.abs(lax.stop_gradient(jnp.stack(embeddings))), axis=(0, 2))
    return jnp.where(max_entry > 1e15, jnp.sqrt(max_entry), 1)[:, None]
