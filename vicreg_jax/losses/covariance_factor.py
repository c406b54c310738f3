"""The centred global batch, scaled so that its products are the batch statistics."""

from collections.abc import Hashable

from jax import Array

from vicreg_jax.losses.mapped_axis import axis_mean, axis_size


def covariance_factor(z: Array, axis_name: Hashable | None) -> Array:
    r"""Return :math:`X = (Z - \bar Z) / \sqrt{N - 1}`: :math:`X^\top X` is then the unbiased covariance.

    The diagonal of that product, the variances, is the sum of squares of `X` over the batch. Scaling here, in
    floating point, leaves no :math:`(N - 1)^2 D` to overflow an int32 further on.

    Args:
        z: `[batch, dim]`, float32 or wider.
        axis_name: None if `z` is the global batch, else the mapped axis it is a shard of.

    Returns:
        `[batch, dim]` in the dtype of `z`; mean and N are the global batch's, rows are this shard's.
    """
    batch = z.shape[0] * axis_size(axis_name)
    return (z - axis_mean(z.mean(axis=0), axis_name)) * (batch - 1) ** -0.5
