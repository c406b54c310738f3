"""The contrast of two views within the batch: each row against all rows of both views."""

from collections.abc import Hashable

import jax.numpy as jnp
from jax import Array

from vicreg_jax.losses.l2_normalize import l2_normalize
from vicreg_jax.losses.mapped_axis import gather_rows, row_positions
from vicreg_jax.losses.similarity import log_similarity_sum


def in_batch_logits(
    z_a: Array, z_b: Array, temperature: Array, block_size: int | None, axis_name: Hashable | None
) -> tuple[Array, Array]:
    """The logit of each anchor's positive, and the logarithm of the sum over its 2N - 2 negatives.

    Both views' rows are anchors. The positive is the same row of the other view; negatives are all other rows of the
    global batch, in both views. Logits are cosines over the temperature.

    Args:
        z_a: embeddings of view a, `[batch, dim]`, float32 or wider.
        z_b: embeddings of view b, of the same shape and dtype.
        temperature: above 0.
        block_size: anchors at a time, or None.
        axis_name: None if the arrays are the global batch, else the mapped axis they are shards of.

    Returns:
        `[batch]`, the same for both views, and `[2, batch]`.
    """
    u_a, u_b = l2_normalize(z_a), l2_normalize(z_b)
    positive = jnp.sum(u_a * u_b, axis=1) / temperature
    negatives = log_similarity_sum(
        jnp.stack([u_a, u_b]) / temperature,
        jnp.stack([gather_rows(u_a, axis_name), gather_rows(u_b, axis_name)]),
        excluded=row_positions(z_a, axis_name),  # in one set the anchor itself, in the other its positive
        block_size=block_size,
    )
    return positive, negatives
