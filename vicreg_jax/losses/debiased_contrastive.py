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

    The textbook form, from the logits of `in_batch_logits`; its exponentials overflow at low temperatures:

    >>> z_a, z_b = jax.random.normal(jax.random.key(0), (2, 4, 5))
    >>> p, n = (jnp.exp(logits) for logits in in_batch_logits(z_a, z_b, 0.5, None, None))
    >>> g = jnp.maximum((n - 0.1 * 6 * p) / (1 - 0.1), 6 * jnp.exp(-1 / 0.5))
    >>> textbook = jnp.mean(-jnp.log(p / (p + g)))
    >>> bool(jnp.allclose(debiased_contrastive_loss(z_a, z_b), textbook, rtol=1e-5))
    True
    """
    z_a, z_b = as_embeddings(z_a=z_a, z_b=z_b)
    temperature = as_temperature(z_a.dtype, temperature)
    check_block_size(block_size)
    (prior,) = as_scalars(z_a.dtype, positive_prior=positive_prior)
    if is_known(positive_prior) and not 0 <= np.asarray(positive_prior) < 1:
        raise ValueError(f"positive_prior must be in [0, 1); got {positive_prior}")
    positive, negatives = in_batch_logits(z_a, z_b, temperature, block_size, axis_name)
    count = 2 * global_batch(z_a, axis_name) - 2
    # In log space: exp(1 / temperature) overflows float32 below a temperature of 0.0113. With
    # share = positive_prior * count * p / n, log((n - positive_prior * count * p) / (1 - positive_prior)) is
    # log(n) + log(1 - share) - log(1 - positive_prior). Where the share is at least 1, g is the minimum in any case, so
    # that the exponent can be capped.
    share = prior * count * jnp.exp(jnp.minimum(positive - negatives, 80))
    is_positive = share < 1
    correction = jnp.log1p(-jnp.where(is_positive, share, 0)) - jnp.log1p(-prior)
    log_estimate = jnp.where(is_positive, negatives + correction, -jnp.inf)
    log_min = (math.log(count) if count else -math.inf) - 1 / temperature
    # -log(p / (p + g)) = log(1 + g / p): no cancellation where p is much larger than g.
    return axis_mean(jnp.mean(jax.nn.softplus(jnp.maximum(log_estimate, log_min) - positive)), axis_name)
