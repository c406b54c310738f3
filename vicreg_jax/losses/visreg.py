"""VISReg: VICReg with a sliced Wasserstein distance instead of the covariance (Wu et al., arXiv 2606.02572)."""

from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import ndtri
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import NOT_NEGATIVE, as_batch, as_scalars, check_global_batch, no_arithmetic
from vicreg_jax.losses.covariance import centered, variances
from vicreg_jax.losses.global_batch import GlobalBatch
from vicreg_jax.losses.gram import einsum
from vicreg_jax.losses.ranks import ranks, sorted_entries
from vicreg_jax.losses.slices import random_directions
from vicreg_jax.losses.square_root import safe_sqrt


class VISRegLoss(NamedTuple):
    """The loss and its three terms: scalars of the global batch.

    Attributes:
        loss: the sum of the three terms.
        center: the mean squared mean of a dimension.
        scale: the mean squared distance of a dimension's standard deviation from 1.
        shape: the squared distance of the standardized embeddings from the normal distribution, over random slices.
    """

    loss: Array
    center: Array
    scale: Array
    shape: Array

    __add__ = __radd__ = __mul__ = __rmul__ = no_arithmetic  # type: ignore[misc, assignment]


def visreg(
    z: ArrayLike,
    *,
    key: ArrayLike,
    slices: int = 4096,
    epsilon: float | Array = 1e-6,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> VISRegLoss:
    r"""Distance of the embeddings' means from 0, deviations from 1, and random slices from the normal distribution.

    .. math:: \frac{1}{D} \sum_d \mu_d^2 + \frac{1}{D} \sum_d (\sigma_d - 1)^2
        + \frac{1}{M N} \sum_m \sum_i \bigl( x_{(i) m} - \Phi^{-1}(\tfrac{i}{N + 1}) \bigr)^2, \qquad
        x_{nm} = \Bigl\langle a_m, \frac{z_n - \mu}{\sigma} \Bigr\rangle

    with :math:`x_{(i) m}` the i-th smallest of slice m, M directions :math:`a_m` of length one, and the biased
    deviation plus :math:`\epsilon` as :math:`\sigma`. The gradient into the :math:`\sigma` that divides is stopped.

    Args:
        z: embeddings of one view, `[batch, dim]`, any floating dtype; 16-bit embeddings are promoted to float32.
        key: PRNG key of the directions: pass a new one at every step, and the same on every device.
        slices: M, the number of directions. Static.
        epsilon: :math:`\epsilon`, added to each standard deviation.
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If no row
            counts, the result is that of embeddings that are zero.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which it is sharded. Average the parameter gradients over it (`lax.pmean`).

    Returns:
        `VISRegLoss(loss, center, scale, shape)`: scalars, float32 (float64 for float64 embeddings), of the global
        batch; the same on every device. The loss is the sum of the three others.

    Raises:
        TypeError: if the dtype is not floating-point, or `key` is not a PRNG key.
        ValueError: if the shape is not `[batch, dim]`, the global batch has fewer than 2 rows, `slices` is not
            positive, or `epsilon` is not at least 0 and finite.

    Source: the paper; HaiyuWu/visreg, `visreg/losses/visreg.py`, whose statistics and sort are per device.

    >>> import jax
    >>> normal = jax.random.normal(jax.random.key(0), (256, 64))
    >>> for z in (normal, 2 * normal, 0 * normal):  # as it should be; too wide; collapsed
    ...     terms = visreg(z, key=jax.random.key(1))
    ...     print(f"{terms.loss:.2f}: {terms.center:.2f}, {terms.scale:.2f}, {terms.shape:.2f}")
    0.01: 0.00, 0.00, 0.01
    1.05: 0.01, 1.03, 0.01
    1.96: 0.00, 1.00, 0.96

    The textbook form, which on several devices needs all embeddings on each:

    >>> std = jnp.std(normal, axis=0) + 1e-6
    >>> x = (normal - jnp.mean(normal, axis=0)) / std @ random_directions(jax.random.key(1), 4096, normal).T
    >>> shape = jnp.mean((jnp.sort(x, axis=0) - ndtri(jnp.arange(1, 257) / 257)[:, None]) ** 2)
    >>> textbook = jnp.mean(jnp.mean(normal, axis=0) ** 2) + jnp.mean((std - 1) ** 2) + shape
    >>> bool(jnp.allclose(visreg(normal, key=jax.random.key(1)).loss, textbook, rtol=1e-4))
    True
    """
    batch, (z,) = as_batch(where, axis_name, z=z)
    check_global_batch("z", batch, z)
    (epsilon,) = as_scalars(z.dtype, NOT_NEGATIVE, epsilon=epsilon)
    std = safe_sqrt(variances(z, batch, 0)) + epsilon
    center = jnp.mean(jnp.square(batch.mean(z, axis=0)))
    scale = jnp.mean(jnp.square(std - 1))
    shape = sliced_distance(centered(z, batch) / lax.stop_gradient(std)[None], random_directions(key, slices, z), batch)
    return VISRegLoss(center + scale + shape, center, scale, shape)


def sliced_distance(x: Array, directions: Array, batch: GlobalBatch) -> Array:
    r"""Compute the squared 2-Wasserstein distance of the rows from the normal distribution, averaged over slices.

    .. math:: \frac{1}{M N} \sum_m \sum_i \bigl( x_{(i) m} - \Phi^{-1}(\tfrac{i}{N + 1}) \bigr)^2

    The textbook form is in `visreg`. A sort needs all rows of a slice. So under a named axis the devices exchange
    slices: each ends up with all rows of its part of the slices, and sorts those alone.

    Args:
        x: `[batch, dim]`, float32 or wider. Under a named axis each device projects only its own rows.
        directions: `[slices, dim]` in the same dtype, the same on every device.
        batch: the rows that count.

    Returns:
        A scalar in the dtype of `x`, reduced over the global batch and averaged over slices; the same on every device.
    """
    projections = einsum("md,nd->mn", directions, x)
    if batch.where is not None:  # rows that do not count come last
        projections = jnp.where(batch.where[None], projections, jnp.finfo(x.dtype).max)
    projections, is_slice = batch.exchange(projections)
    count = batch.count(x.dtype)
    rank = jnp.arange(1, batch.rows + 1, dtype=x.dtype)
    counts = is_slice[:, None] & (rank <= count)[None]
    squares = sorted_squares(projections, normal_quantiles(rank, count), counts)
    return batch.axis_sum(squares) / (directions.shape[0] * batch.count(x.dtype, minimum=1))


def normal_quantiles(rank: Array, count: int | Array) -> Array:
    r"""Compute :math:`\Phi^{-1}(i / (N + 1))`, for the ranks i of N rows; 0 for ranks above N.

    Args:
        rank: from 1, `[rows]`, in the dtype of the embeddings.
        count: N.

    Returns:
        `[rows]`, in the dtype of `rank`.

    >>> print(normal_quantiles(jnp.arange(1.0, 5.0), 4))
    [-0.8416212 -0.2533471  0.2533471  0.8416212]
    """
    from_end = count + 1 - rank
    # From the nearer end: close to 1, the quantile of a float32 probability has few digits.
    tail = jnp.where(from_end > 0, jnp.minimum(rank, from_end) / (count + 1), 0.5)
    return jnp.where(rank < from_end, 1, -1) * ndtri(tail)


# With the custom derivative no ranks are computed where only the value is needed.
@jax.custom_jvp
def sorted_squares(x: Array, targets: Array, counts: Array) -> Array:
    """Sort each slice and sum the squared differences from the targets.

    >>> one_slice, targets = jnp.array([[3.0, 1.0, 2.0]]), jnp.array([1.0, 2.0, 4.0])
    >>> print(sorted_squares(one_slice, targets, jnp.ones((1, 3), bool)))
    1.0

    Args:
        x: `[slices, rows]`, float32 or wider.
        targets: `[rows]`, one for each rank; constants, whose derivative is zero.
        counts: bool `[slices, rows]`, the ranks that count.

    Returns:
        A scalar in the dtype of `x`, reduced over slices and ranks.
    """
    return jnp.sum(jnp.square(jnp.where(counts, sorted_entries(x) - targets[None], 0)))


@sorted_squares.defjvp
def _sorted_squares_jvp(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    x, targets, counts = primals
    rank = ranks(lax.stop_gradient(x))
    is_row = rank < jnp.sum(counts, axis=1, dtype=rank.dtype)[:, None]  # the first ranks are those that count
    difference = jnp.where(is_row, x - targets[rank], 0)
    return jnp.sum(jnp.square(difference)), jnp.sum(2 * difference * tangents[0])
