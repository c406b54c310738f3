"""KoLeo, the entropy regularizer of DINOv2 and DINOv3 (Sablayrolles et al., ICLR 2019, arXiv 1806.03198)."""

from collections.abc import Hashable

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import POSITIVE, as_batch, as_scalars, check_global_batch
from vicreg_jax.losses.global_batch import explicit_sharding
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.losses.similarity import einsum
from vicreg_jax.losses.square_root import safe_sqrt


def koleo_term(
    z: ArrayLike,
    *,
    epsilon: float | Array = 1e-8,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    r"""Negative log-distance of each embedding from its nearest neighbor on the unit sphere.

    .. math:: -\frac{1}{N} \sum_n \log \Bigl( \min_{m \ne n} \| \hat z_n - \hat z_m \| + \epsilon \Bigr)

    Args:
        z: embeddings of one view, `[batch, dim]`, any floating dtype; normalized here.
        epsilon: :math:`\epsilon`, above 0. Equal embeddings have distance 0, the value :math:`-\log \epsilon`, and
            no gradient.
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If fewer
            than two count, the value is 0.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which it is sharded. Average the parameter gradients over it (`lax.pmean`).

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the global batch, the same on every device.
        The similarities take an array of this shard's rows times the global batch.

    Raises:
        TypeError: if the dtype is not floating-point.
        ValueError: if the shape is not `[batch, dim]`, the global batch has fewer than 2 rows, or `epsilon` is not
            above 0.

    Source: facebookresearch/dinov3, `dinov3/loss/koleo_loss.py`, which adds epsilon to every difference as well.

    >>> square = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # each neighbor at sqrt(2)
    >>> print(f"{koleo_term(square):.3f}")
    -0.347

    The textbook form:

    >>> distances = jnp.linalg.norm(square[:, None] - square[None], axis=2) + 9 * jnp.eye(4)
    >>> print(f"{-jnp.mean(jnp.log(jnp.min(distances, axis=1) + 1e-8)):.3f}")
    -0.347
    """
    batch, (z,) = as_batch(where, axis_name, z=z)
    check_global_batch("z", batch, z)
    (epsilon,) = as_scalars(z.dtype, POSITIVE, epsilon=epsilon)
    u = l2_normalize(z)
    rows = batch.gather(u)
    # The nearest neighbor does not change along a gradient; only the distance from it does.
    similarities = lax.stop_gradient(einsum("nd,md->nm", u, rows))
    is_other = jnp.arange(rows.shape[0])[None] != batch.positions(u)[:, None]
    if batch.where is not None:
        is_other &= batch.gather(batch.where)[None]
    neighbor = jnp.argmax(jnp.where(is_other, similarities, -2), axis=1)
    distance = safe_sqrt(jnp.sum(jnp.square(u - rows.at[neighbor].get(out_sharding=explicit_sharding(u))), axis=1))
    has_neighbor = jnp.any(is_other, axis=1)
    return -batch.mean(batch.keep(jnp.where(has_neighbor, jnp.log(distance + epsilon), 0)))
