"""Is the network collapsing? Monitors of one batch of embeddings, cheap enough for the train step."""

import math

import jax
import jax.numpy as jnp

STD_FLOOR = 0.1  # of the target standard deviation; a healthy VICReg run stays near 1
RANK_FLOOR = 0.1  # of the way from 1 to the largest rank that the batch allows

MONITORED_ROWS = 512  # an eigenvalue problem of this size is cheap on every device


def embedding_std(z: jax.Array) -> jax.Array:
    """Standard deviation over the batch, averaged over the dimensions: 0 when all embeddings are the same.

    Args:
      z: embeddings `[batch, dim]`, any floating dtype; at least two rows.

    Returns:
      float32 scalar: the mean over dimensions of the root of the unbiased variance (divided by batch - 1).
      VICReg's variance term looks at the same roots, but for its epsilon.

    Example:
      >>> embedding_std(jnp.array([[0.0, 1.0], [2.0, 1.0]]))  # the dimensions' are sqrt(2) and 0
      Array(0.70710677, dtype=float32)
    """
    return jnp.mean(jnp.std(z.astype(jnp.float32), axis=0, ddof=1))


def spectrum(z: jax.Array) -> jax.Array:
    """The eigenvalues of the embeddings' covariance: the variance along each principal direction.

    Args:
      z: embeddings `[batch, dim]`, any floating dtype; at least two rows.

    Returns:
      float32 `[min(batch, dim)]`, largest first, summing to the total variance. They come from the smaller of
      the two Gram matrices of the centered embeddings, divided by batch - 1. Values that rounding in
      float32 could have made (below 2e-6 of the largest) are 0.
    """
    batch, dim = z.shape
    z = z.astype(jnp.float32)
    centered = z - jnp.mean(z, axis=0)
    smaller = centered if dim <= batch else centered.T
    # A TPU multiplies float32 in bfloat16 unless told otherwise, which would drown the small eigenvalues.
    gram = jnp.matmul(smaller.T, smaller, precision=jax.lax.Precision.HIGHEST) / (batch - 1)
    eigenvalues = jnp.linalg.eigvalsh(gram)[::-1]
    rounding = 16 * jnp.finfo(jnp.float32).eps * eigenvalues[0]
    return jnp.where(eigenvalues > rounding, eigenvalues, 0.0)


def effective_rank(z: jax.Array) -> jax.Array:
    """How many dimensions the embeddings really use: RankMe, of the centered embeddings.

    exp(-sum_i p_i log p_i) with p_i = s_i / sum_j s_j, where s are the **singular values** (not the
    eigenvalues of the covariance) of `z` less its mean over the batch. RankMe itself does not center;
    centering keeps a common offset, which is no information, from counting as a dimension.

    Args:
      z: embeddings `[batch, dim]`, any floating dtype; at least two rows.

    Returns:
      float32 scalar from 1 (all on one line, or all the same) to min(batch - 1, dim).

    Source: Garrido et al., RankMe (arXiv 2210.02885), equation 1; Roy and Vetterli, The effective rank
      (EUSIPCO 2007).
    """
    return rank_of_spectrum(spectrum(z))


def rank_of_spectrum(eigenvalues: jax.Array) -> jax.Array:
    """The effective rank from what `spectrum` returns, where both are wanted.

    Example:
      >>> rank_of_spectrum(jnp.array([4.0, 4.0, 4.0, 0.0])).round(4)
      Array(3., dtype=float32)
    """
    singular_values = jnp.sqrt(eigenvalues)
    p = singular_values / jnp.maximum(jnp.sum(singular_values), jnp.finfo(jnp.float32).tiny)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p, p)))


def collapse_monitor(z: jax.Array) -> dict[str, jax.Array]:
    """`embedding_std` and `effective_rank` of the first `MONITORED_ROWS` embeddings of a batch, for the train step."""
    z = z[:MONITORED_ROWS]
    return {"embedding_std": embedding_std(z), "effective_rank": effective_rank(z)}


def collapse_warning(
    embedding_std: float, effective_rank: float, *, dim: int, batch_size: int, target_std: float = 1.0
) -> str | None:
    """Says in plain words that the embeddings are collapsing; None while they are not.

    The floors are set where no healthy run goes. Complete collapse, all images getting nearly the same
    embedding: a standard deviation below `STD_FLOOR` of the target. Dimensional collapse, the embeddings
    lying in a few dimensions: an effective rank below `1 + RANK_FLOOR * (largest - 1)`, where the largest
    possible is min(batch_size - 1, dim). The words depend on the kind of collapse alone, so that a caller
    can tell a new warning from a repeated one.

    Args:
      embedding_std, effective_rank: of one batch, from the functions above.
      dim, batch_size: the embeddings' shape; they bound the rank.
      target_std: what `embedding_std` should be near: 1 for VICReg, 1 / sqrt(dim) for embeddings of unit
        length.

    Example:
      >>> collapse_warning(0.98, 120.0, dim=512, batch_size=256)
      >>> collapse_warning(0.98, 2.1, dim=512, batch_size=256)[:58]
      'the embeddings use only a few of their dimensions (effecti'
    """
    if not (math.isfinite(embedding_std) and math.isfinite(effective_rank)):
        return "the embeddings are not finite: lower optim.base_lr or lengthen the warm-up"
    if embedding_std < STD_FLOOR * target_std:
        return (
            "the embeddings have collapsed: all images get nearly the same one (embedding_std below "
            f"{STD_FLOOR * target_std:.2g}; healthy is near {target_std:.2g}). Raise the weight of what "
            "keeps them apart (such as method.variance_weight), lower optim.base_lr or lengthen the warm-up"
        )
    largest = min(batch_size - 1, dim)
    rank_floor = 1 + RANK_FLOOR * (largest - 1)
    if effective_rank < rank_floor:
        return (
            f"the embeddings use only a few of their dimensions (effective_rank below {rank_floor:.1f}; "
            f"up to {largest} is possible). Raise the weight of what decorrelates them "
            "(such as method.covariance_weight), or use larger batches or stronger augmentation"
        )
    return None
