"""Debiased contrastive learning (Chuang, Robinson, Lin, Torralba, Jegelka, NeurIPS 2020, arXiv 2007.00224)."""

import math
from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from vicreg_jax.losses.arguments import POSITIVE, PROBABILITY, as_batch, as_scalars, check_block_size
from vicreg_jax.losses.global_batch import GlobalBatch
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.losses.similarity import other_rows_log_sum


def debiased_contrastive_loss(
    z_a: ArrayLike,
    z_b: ArrayLike,
    *,
    temperature: float | Array = 0.5,
    positive_prior: float | Array = 0.1,
    block_size: int | None = None,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    r"""NT-Xent corrected for false negatives: the expected share of the anchor's own class is subtracted.

    With :math:`M = 2N - 2` negatives per anchor, :math:`p` the exponential of its positive's logit and :math:`n` the
    sum of the exponentials of its negatives' logits (cosines divided by the temperature :math:`\tau`):

    .. math:: -\log \frac{p}{p + g}, \qquad
        g = \max\Bigl(\frac{n - \tau^+ M p}{1 - \tau^+},\ M e^{-1 / \tau}\Bigr)

    Args:
        z_a: embeddings of view a, `[batch, dim]`, any floating dtype; normalized here.
        z_b: embeddings of view b, with the same shape.
        temperature: :math:`\tau`, above 0; may be traced and differentiated.
        positive_prior: :math:`\tau^+`, the probability that two images share a class, in [0, 1); 0 gives NT-Xent.
        block_size: as in `nt_xent_loss`.
        where: as in `nt_xent_loss`.
        axis_name: as in `nt_xent_loss`.

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the 2N anchors, the same on every device.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]`, the shapes differ, `temperature` is not above 0, `positive_prior`
            is not in [0, 1), or `block_size` is not a positive integer.

    Source: paper, equation 8 with M = 1 positive; chingyaoc/DCL, `main.py`, lines 33 to 54.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> orthogonal = jnp.eye(4)
    >>> print(f"{debiased_contrastive_loss(orthogonal, orthogonal, temperature=1.0):.3f}")
    1.025

    The textbook form, whose exponentials overflow at low temperatures:

    >>> z_a, z_b = jax.random.normal(jax.random.key(0), (2, 4, 5))
    >>> u = jnp.concatenate([z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (z_a, z_b)])
    >>> exponentials, is_same_image = jnp.exp(u @ u.T / 0.5), jnp.tile(jnp.eye(4, dtype=bool), (2, 2))
    >>> p, n = jnp.tile(jnp.diag(exponentials[:4, 4:]), 2), jnp.sum(jnp.where(is_same_image, 0, exponentials), axis=1)
    >>> g = jnp.maximum((n - 0.1 * 6 * p) / (1 - 0.1), 6 * jnp.exp(-1 / 0.5))
    >>> textbook = jnp.mean(-jnp.log(p / (p + g)))
    >>> bool(jnp.allclose(debiased_contrastive_loss(z_a, z_b), textbook, rtol=1e-5))
    True
    """
    batch, (z_a, z_b) = as_batch(where, axis_name, z_a=z_a, z_b=z_b)
    (temperature,) = as_scalars(z_a.dtype, POSITIVE, temperature=temperature)
    (prior,) = as_scalars(z_a.dtype, PROBABILITY, positive_prior=positive_prior)
    check_block_size(block_size)
    u_a, u_b = l2_normalize(z_a), l2_normalize(z_b)
    positive, u = (jnp.sum(u_a * u_b, axis=1) / temperature)[None], jnp.stack([u_a, u_b])
    negatives = other_rows_log_sum(u / temperature, u, block_size, batch)
    lowest = float(jnp.finfo(z_a.dtype).min) / 2  # the logarithm of nothing, without an infinity
    count, log_count = _negatives(batch, z_a.dtype, lowest)
    # In log space: exp(1 / temperature) overflows float32 below a temperature of 0.0113. With
    # share = positive_prior * count * p / n, log((n - positive_prior * count * p) / (1 - positive_prior)) is
    # log(n) + log(1 - share) - log(1 - positive_prior). Where the share is at least 1, g is the minimum in any case, so
    # that the exponent can be capped.
    share = prior * count * jnp.exp(jnp.minimum(positive - negatives, 80))
    is_positive = share < 1
    correction = jnp.log1p(-jnp.where(is_positive, share, 0)) - jnp.log1p(-prior)
    log_estimate = jnp.where(is_positive, negatives + correction, lowest)
    log_min = log_count - 1 / temperature
    # -log(p / (p + g)) = log(1 + g / p): no cancellation where p is much larger than g.
    return batch.mean(batch.keep(jax.nn.softplus(jnp.maximum(log_estimate, log_min) - positive), rows_axis=1))


def _negatives(batch: GlobalBatch, dtype: DTypeLike, lowest: float) -> tuple[int | Array, float | Array]:
    """Return the number of negatives of an anchor, 2N - 2, and its logarithm (`lowest` for none), as scalars."""
    count, most = 2 * batch.count(dtype, minimum=1) - 2, 2 * batch.rows - 2
    if isinstance(count, int):
        return count, math.log(count) if count else lowest
    if not isinstance(most, int):
        return count, jnp.log(jnp.asarray(count, dtype))
    # The second logarithm is exactly 0 if all rows count.
    log_count = math.log(max(most, 1)) + jnp.log(jnp.maximum(count, 1) / max(most, 1))
    return count, jnp.where(count == 0, lowest, log_count)
