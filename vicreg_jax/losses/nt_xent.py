"""NT-Xent, SimCLR's loss (Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709)."""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import POSITIVE, as_batch, as_batch_of_views, as_scalars, check_block_size
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.losses.similarity import other_rows_log_sum


def nt_xent_loss(
    z_a: ArrayLike,
    z_b: ArrayLike,
    *,
    temperature: float | Array = 0.1,
    block_size: int | None = None,
    where: ArrayLike | None = None,
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
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If no row
            counts, the loss is 0.
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
    batch, (z_a, z_b) = as_batch(where, axis_name, z_a=z_a, z_b=z_b)
    (temperature,) = as_scalars(z_a.dtype, POSITIVE, temperature=temperature)
    check_block_size(block_size)
    u_a, u_b = l2_normalize(z_a), l2_normalize(z_b)
    positive, u = jnp.sum(u_a * u_b, axis=1) / temperature, jnp.stack([u_a, u_b])
    negatives = other_rows_log_sum(u / temperature, u, block_size, batch)
    # -log(p / (p + n)) = log(1 + n / p): no cancellation where p is much larger than n.
    return batch.mean(batch.keep(jax.nn.softplus(negatives - positive[None]), rows_axis=1))


def multi_view_nt_xent_loss(
    z: ArrayLike,
    *,
    temperature: float | Array = 0.1,
    block_size: int | None = None,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    r"""NT-Xent of any number of views: each view finds each other view of its image among all views of other images.

    .. math:: \frac{1}{V (V - 1) N} \sum_{v \ne w} \sum_n -\log \frac{\exp(s_{vn,wn} / \tau)}
        {\exp(s_{vn,wn} / \tau) + \sum_u \sum_{m \ne n} \exp(s_{vn,um} / \tau)}

    The other views of an image are no negatives of each other. For two views it is `nt_xent_loss`.

    Args:
        z: embeddings of all views, `[views, batch, dim]`, two views or more, any floating dtype; normalized here.
        temperature: :math:`\tau`, above 0; may be traced and differentiated.
        block_size: as in `nt_xent_loss`; arrays have shape `[block_size, views * global batch]`.
        where: as in `nt_xent_loss`, bool `[batch]`.
        axis_name: as in `nt_xent_loss`; the mapped axis shards the rows.

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over ordered pairs of views and over the batch, the
        same on every device.

    Raises:
        TypeError: if the dtype is not floating-point.
        ValueError: if the shape is not `[views, batch, dim]` with at least two views, `temperature` is not above 0, or
            `block_size` is not a positive integer.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> z = jax.random.normal(jax.random.key(0), (3, 8, 5))
    >>> two_views = nt_xent_loss(z[0], z[1])
    >>> bool(jnp.allclose(multi_view_nt_xent_loss(z[:2]), two_views, rtol=1e-5))
    True

    The textbook form, which builds the logits of all pairs at once:

    >>> u = z / jnp.linalg.norm(z, axis=2, keepdims=True)
    >>> logits, same_image = jnp.einsum("vnd,wmd->vnwm", u, u) / 0.1, jnp.eye(8, dtype=bool)
    >>> n = jnp.sum(jnp.where(same_image[None, :, None], 0, jnp.exp(logits)), axis=(2, 3))
    >>> p = jnp.exp(jnp.einsum("vnwn->vwn", logits))
    >>> pairs = -jnp.log(p / (p + n[:, None]))[~jnp.eye(3, dtype=bool)]
    >>> bool(jnp.allclose(multi_view_nt_xent_loss(z), jnp.mean(pairs), rtol=1e-5))
    True
    """
    batch, views = as_batch_of_views(where, axis_name, z)
    (temperature,) = as_scalars(views[0].dtype, POSITIVE, temperature=temperature)
    check_block_size(block_size)
    u = jnp.stack([l2_normalize(view) for view in views])
    negatives = other_rows_log_sum(u / temperature, u, block_size, batch)
    pairs = [(v, w) for v in range(len(views)) for w in range(len(views)) if v != w]
    positive = jnp.stack([jnp.sum(u[v] * u[w], axis=1) / temperature for v, w in pairs])
    anchors = jnp.stack([negatives[v] for v, _ in pairs])
    return batch.mean(batch.keep(jax.nn.softplus(anchors - positive), rows_axis=1))
