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
    r"""Cross-entropy of picking a row's other view among all other rows of both views, by cosine.

    .. math:: \frac{1}{2N} \sum_i -\log
        \frac{\exp(s_{i, p(i)} / \tau)}{\sum_{j \ne i} \exp(s_{ij} / \tau)}

    over the 2N rows i of both views, with :math:`p(i)` the same row of the other view.

    Args:
        z_a: embeddings of view a, `[batch, dim]`, any floating dtype; normalized here.
        z_b: embeddings of view b, of the same shape.
        temperature: :math:`\tau`, above 0; may be traced, and differentiated by.
        block_size: rows of a view at a time, for memory: arrays of `[block_size, 2 * global batch]` are made. None for
            a quarter of this array's rows, or for those that make 65,536 similarities where that is more. Does
            not change the value.
        axis_name: None if the arrays are the global batch (plain, or sharded under `jax.jit`); else the
            mapped axis along which they are shards. Average parameter gradients over it (`lax.pmean`).

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the 2N anchors, the same on every device. A
        batch of one row has nothing to tell apart and gives 0.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]`, the shapes differ, temperature is not above 0 or block_size is
            under 1.

    Source: paper, equation 1 and algorithm 1. google-research/simclr, `tf2/objective.py`, lines 53 to 87, adds the two
    directions up: twice this value.

    >>> import jax.numpy as jnp
    >>> apart = jnp.eye(4)  # every negative at a right angle
    >>> print(f"{nt_xent_loss(apart, apart, temperature=1.0):.3f}")  # log(1 + 6 / e)
    1.165
    """
    z_a, z_b = as_embeddings(z_a=z_a, z_b=z_b)
    temperature = as_temperature(z_a.dtype, temperature)
    check_block_size(block_size)
    positive, negatives = in_batch_logits(z_a, z_b, temperature, block_size, axis_name)
    # -log(p / (p + n)) = log(1 + n / p): nothing cancels where the positive wins.
    return axis_mean(jnp.mean(jax.nn.softplus(negatives - positive)), axis_name)
