"""NT-Xent, SimCLR's loss (Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709)."""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import as_embeddings, as_temperature, check_block_size
from vicreg_jax.losses.mapped_axis import axis_mean
from vicreg_jax.losses.similarity import in_batch_logits


def nt_xent_loss(
    z_a: ArrayLike,
    z_b: ArrayLike,
    *,
    temperature: float | Array = 0.1,
    block_size: int | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    r"""Cross-entropy of finding a row's other view among all other rows of both views, by cosine.

    .. math:: \frac{1}{2N} \sum_i -\log
        \frac{\exp(s_{i, p(i)} / \tau)}{\sum_{j \ne i} \exp(s_{ij} / \tau)}

    over the 2N rows i of both views, where :math:`p(i)` is the same row of the other view.

    Args:
        z_a: embeddings of view a, `[batch, dim]`, any floating dtype; normalized here.
        z_b: embeddings of view b, with the same shape.
        temperature: :math:`\tau`, above 0; may be traced and differentiated.
        block_size: maximum number of rows of a view per block, which bounds the memory: arrays have shape
            `[block_size, 2 * global batch]`. None: a quarter of this array's rows, or the number that makes 65,536
            similarities if that is larger. The value does not depend on it.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which it is sharded. Average the parameter gradients over it (`lax.pmean`).

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the 2N anchors, the same on every device. For
        a batch of one row, which has no negatives, it is 0.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]`, the shapes differ, `temperature` is not above 0, or `block_size`
            is not a positive integer.

    Source: paper, equation 1 and algorithm 1. google-research/simclr, `tf2/objective.py`, lines 53 to 87, sums the two
    directions: twice this value.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> orthogonal = jnp.eye(4)  # every negative has cosine 0
    >>> print(f"{nt_xent_loss(orthogonal, orthogonal, temperature=1.0):.3f}")  # log(1 + 6 / e)
    1.165

    The textbook form, which builds the 2N x 2N matrix and rounds losses below 1e-7 to 0 in float32:

    >>> z_a, z_b = jax.random.normal(jax.random.key(0), (2, 4, 5))
    >>> u = jnp.concatenate([z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (z_a, z_b)])
    >>> logits = jnp.where(jnp.eye(8, dtype=bool), -jnp.inf, u @ u.T / 0.1)
    >>> textbook = -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(8), (jnp.arange(8) + 4) % 8])
    >>> bool(jnp.allclose(nt_xent_loss(z_a, z_b), textbook, rtol=1e-5))
    True
    """
    z_a, z_b = as_embeddings(z_a=z_a, z_b=z_b)
    temperature = as_temperature(z_a.dtype, temperature)
    check_block_size(block_size)
    positive, negatives = in_batch_logits(z_a, z_b, temperature, block_size, axis_name)
    # -log(p / (p + n)) = log(1 + n / p): no cancellation where p is much larger than n.
    return axis_mean(jnp.mean(jax.nn.softplus(negatives - positive)), axis_name)
