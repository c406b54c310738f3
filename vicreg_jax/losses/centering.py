"""Embeddings less their mean over the global batch."""

from collections.abc import Hashable

from jax import Array, lax

from vicreg_jax.losses.mapped_axis import axis_mean


def centered(z: Array, axis_name: Hashable | None) -> Array:
    """Take the mean of each column out.

    Args:
        z: `[batch, dim]`, float32 or wider.
        axis_name: None if `z` is the global batch, else the mapped axis it is a shard of.

    Returns:
        `[batch, dim]` in the dtype of `z`; the mean is the global batch's, rows are this shard's.
    """
    x = z - axis_mean(z.mean(axis=0), axis_name)
    # A mean that is large beside the standard deviation leaves its rounding behind, which gradients show and a constant
    # dimension is not zero with. In exact arithmetic it is zero, and so is its derivative.
    return x - lax.stop_gradient(axis_mean(x.mean(axis=0), axis_name))
