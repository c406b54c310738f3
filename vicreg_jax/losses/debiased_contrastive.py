"""Debiased contrastive learning (Chuang, Robinson, Lin, Torralba, Jegelka, NeurIPS 2020, arXiv 2007.00224)."""

import math
from collections.abc import Hashable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import as_embeddings, as_scalars, as_temperature, check_block_size, is_known
from vicreg_jax.losses.mapped_axis import axis_mean, global_batch
from vicreg_jax.losses.similarity import in_batch_logits


def debiased_contrastive_loss(
    z_a: ArrayLike,
    z_b: ArrayLike,
    *,
    temperature: float | Array = 0.5,
    positive_prior: float | Array = 0.1,
    block_size: int | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    r"""NT-Xent less the negatives that are of the anchor's own class, in expectation.

    With :math:`M = 2N - 2` negatives of an anchor, :math:`p` the exponential of its positive's logit and :math:`n` the
    sum of those of its negatives (cosines over the temperature :math:`\tau`):

    .. math:: -\log \frac{p}{p + g}, \qquad
        g = \max\Bigl(\frac{n - \tau^+ M p}{1 - \tau^+},\ M e^{-1 / \tau}\Bigr)

    Args:
        z_a: embeddings of view a, `[batch, dim]`, any floating dtype; normalized here.
        z_b: embeddings of view b, of the same shape.
        temperature: :math:`\tau`, above 0; may be traced, and differentiated by.
        positive_prior: :math:`\tau^+`, the probability that two images are of one class, from 0 (which is NT-Xent) to
            below 1.
        block_size: as in `nt_xent_loss`.
        axis_name: as in `nt_xent_loss`.

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the 2N anchors, the same on every device.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]`, the shapes differ, temperature is not above 0, positive_prior is
            not from 0 to below 1 or block_size is under 1.

    Source: paper, equation 8 with M = 1 positive; chingyaoc/DCL, `main.py`, lines 33 to 54.

    >>> import jax.numpy as jnp
    >>> apart = jnp.eye(4)
    >>> print(f"{debiased_contrastive_loss(apart, apart, temperature=1.0):.3f}")
    1.025
    """
    z_a, z_b = as_embeddings(z_a=z_a, z_b=z_b)
    temperature = as_temperature(z_a.dtype, temperature)
    check_block_size(block_size)
    (prior,) = as_scalars(z_a.dtype, positive_prior=positive_prior)
    if is_known(positive_prior) and not 0 <= np.asarray(positive_prior) < 1:
        raise ValueError(f"positive_prior must be from 0 to below 1; got {positive_prior}")
    positive, negatives = in_batch_logits(z_a, z_b, temperature, block_size, axis_name)
    count = 2 * global_batch(z_a, axis_name) - 2
    # All in logarithms: exp(1 / temperature) alone overflows float32 below a temperature of 0.0113. Where the share of
    # the negatives that is taken off reaches 1 nothing is left, and how far beyond it is does not count.
    share = prior * count * jnp.exp(jnp.minimum(positive - negatives, 80))
    is_left = share < 1
    remaining = jnp.log1p(-jnp.where(is_left, share, 0)) - jnp.log1p(-prior)
    estimate = jnp.where(is_left, negatives + remaining, -jnp.inf)
    least = (math.log(count) if count else -math.inf) - 1 / temperature
    return axis_mean(jnp.mean(jax.nn.softplus(jnp.maximum(estimate, least) - positive)), axis_name)
