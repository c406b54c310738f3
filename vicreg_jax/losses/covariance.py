"""Second moments of a batch of embeddings."""

from collections.abc import Callable, Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from vicreg_jax.losses.mapped_axis import axis_mean, axis_sum, gather_rows, global_batch, replicated_sharding

# The default precision (bfloat16 on TPU, TF32 on GPU) is too low where large sums are subtracted.
einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


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


# With a rule of its own the derivative is centered as the embeddings are: it saves one pass over them.
@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def variances(z: Array, divisor: float, axis_name: Hashable | None) -> Array:
    """Sum of squares of each centered dimension over the global batch, over a divisor.

    Args:
        z: `[batch, dim]`, float32 or wider.
        divisor: N - 1 for the unbiased variance, N for the biased one.
        axis_name: None if `z` is the global batch, else the mapped axis it is a shard of.

    Returns:
        `[dim]` in the dtype of `z`, the same on every device.
    """
    return _over_batch(jnp.square(centered(z, axis_name)), divisor, axis_name)


@variances.defjvp
def _variances_jvp(
    divisor: float, axis_name: Hashable | None, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    x = centered(primals[0], axis_name)
    tangent = _over_batch(x * tangents[0], divisor / 2, axis_name)
    return _over_batch(jnp.square(x), divisor, axis_name), tangent


def _over_batch(products: Array, divisor: float, axis_name: Hashable | None) -> Array:
    return axis_sum(jnp.sum(products, axis=0), axis_name) / divisor


# A JVP rule rather than a VJP: as cheap in reverse, and forward mode and higher derivatives work as well.
@partial(jax.custom_jvp, nondiff_argnums=(1,))
def covariance_off_diagonal(z: Array, axis_name: Hashable | None) -> Array:
    """Sum of the squared unbiased covariances of different dimensions over the global batch.

    Args:
        z: `[batch, dim]`, float32 or wider. Under a named axis each device multiplies its own rows only.
        axis_name: None if `z` is the global batch, else the mapped axis it is a shard of.

    Returns:
        A scalar in the dtype of `z`, the same on every device.
    """
    return _square_sum(centered(z, axis_name), axis_name)[0]


@covariance_off_diagonal.defjvp
def _covariance_off_diagonal_jvp(
    axis_name: Hashable | None, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    (z,), (z_dot,) = primals, tangents
    square_sum, gradient = _square_sum(centered(z, axis_name), axis_name)
    # Summed over the axis: the derivative of the global value, which every kind of mapped axis transposes.
    return square_sum, axis_sum(jnp.sum(gradient() * z_dot), axis_name)


def _square_sum(x: Array, axis_name: Hashable | None) -> tuple[Array, Callable[[], Array]]:
    """The value, and on demand this shard's rows of its gradient."""
    batch, dim = global_batch(x, axis_name), x.shape[1]
    # Scales go with the small arrays: a scaled copy of the embeddings would be one more in memory.
    scale = 1 / (batch - 1)
    if batch < dim:
        rows = gather_rows(x, axis_name)
        gram = scale * einsum("nd,md->nm", x, rows)
        variance = scale * axis_sum(jnp.sum(x * x, axis=0), axis_name)
        # Rounding can leave the difference below zero, which a sum of squares never is.
        value = jnp.maximum(axis_sum(jnp.sum(gram * gram), axis_name) - jnp.sum(variance * variance), 0)
        return value, lambda: einsum("nm,md->nd", 4 * scale * gram, rows) - x * (4 * scale * variance)
    covariance = scale * axis_sum(einsum("nd,ne->de", x, x, out_sharding=replicated_sharding(x)), axis_name)
    off_diagonal = jnp.where(jnp.eye(dim, dtype=bool), 0, covariance)
    return jnp.sum(off_diagonal * off_diagonal), lambda: einsum("nd,de->ne", x, 4 * scale * off_diagonal)


def unbiased_off_diagonal(z: Array, axis_name: Hashable | None) -> Array:
    """Unbiased estimate of the sum of the population's squared covariances of different dimensions.

    Args:
        z: `[batch, dim]`, float32 or wider; a global batch of at least 4 rows.
        axis_name: None if `z` is the global batch, else the mapped axis it is a shard of.

    Returns:
        A scalar in the dtype of `z`, the same on every device; it may be negative.
    """
    n = float(global_batch(z, axis_name))  # as an int32 its square overflows
    variance, squares = variances(z, n - 1, axis_name), jnp.square(centered(z, axis_name))
    variance_products = jnp.square(jnp.sum(variance)) - jnp.sum(jnp.square(variance))
    row_products = jnp.square(jnp.sum(squares, axis=1)) - jnp.sum(jnp.square(squares), axis=1)
    fourth_moments = axis_sum(jnp.sum(row_products), axis_name) / (n - 1)
    scale = (n - 1) / (n * (n - 2) * (n - 3))
    biased = (n - 1) * (n - 2) * covariance_off_diagonal(z, axis_name)
    return scale * (biased + variance_products - n * fourth_moments)
