"""Collapse diagnostics of one batch of embeddings, cheap enough for the train step."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

STD_FLOOR = 0.1  # fraction of the target standard deviation; a healthy VICReg run stays near 1
RANK_FLOOR = 0.1  # fraction of the way from 1 to the largest rank that the batch allows

MONITORED_ROWS = 512  # eigenvalues of a matrix of this size are cheap on every device


def embedding_std(z: jax.Array) -> jax.Array:
    """Compute the standard deviation over the batch, averaged over dimensions; 0 if all embeddings are equal.

    It averages the same square roots that VICReg's variance term compares with its target, without the epsilon.

    Args:
        z: embeddings `[batch, dim]`, any floating dtype; at least two rows.

    Returns:
        float32 scalar: mean over dimensions of the square root of the unbiased variance (divided by batch - 1).

    Example:
        >>> embedding_std(jnp.array([[0.0, 1.0], [2.0, 1.0]]))  # sqrt(2) and 0
        Array(0.70710677, dtype=float32)
    """
    return jnp.mean(jnp.std(z.astype(jnp.float32), axis=0, ddof=1))


def gram_matrix(z: jax.Array) -> jax.Array:
    """Compute the smaller of the two Gram matrices of the centered embeddings, divided by batch - 1.

    Its eigenvalues are the variances along the principal directions.

    Args:
        z: embeddings `[batch, dim]`, any floating dtype; at least two rows.

    Returns:
        float32 `[min(batch, dim), min(batch, dim)]`.
    """
    batch, dim = z.shape
    z = z.astype(jnp.float32)
    centered = z - jnp.mean(z, axis=0, keepdims=True)
    smaller = centered if dim <= batch else centered.T
    # A TPU multiplies float32 in bfloat16 by default, which would swamp the small eigenvalues.
    return jnp.matmul(smaller.T, smaller, precision=jax.lax.Precision.HIGHEST) / (batch - 1)


def spectrum(z: jax.Array) -> jax.Array:
    """Compute the eigenvalues of the covariance of the embeddings: the variance along each principal direction.

    Args:
        z: embeddings `[batch, dim]`, any floating dtype; at least two rows.

    Returns:
        float32 `[min(batch, dim)]`, largest first; the sum is the total variance. Values within the rounding error of
        float32 (below 2e-6 times the largest) are 0.
    """
    return _spectrum(gram_matrix(z), jnp)


def spectrum_on_host(gram: np.ndarray) -> np.ndarray:
    """Compute `spectrum` from `gram_matrix` by NumPy: a TPU's compiler takes minutes for an eigenvalue problem.

    Args:
        gram: float32 `[n, n]`, symmetric.

    Returns:
        float32 `[n]`; NaN if an entry is not finite.
    """
    if not np.all(np.isfinite(gram)):
        return np.full(len(gram), np.nan, np.float32)
    return _spectrum(gram, np)


def _spectrum(gram, numpy):
    eigenvalues = numpy.linalg.eigvalsh(gram)[::-1]
    rounding = 16 * numpy.finfo(numpy.float32).eps * eigenvalues[0]
    return numpy.where(eigenvalues > rounding, eigenvalues, numpy.float32(0))


def effective_rank(z: jax.Array) -> jax.Array:
    r"""Compute the number of dimensions that the embeddings use: RankMe, of the centered embeddings.

    .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \qquad p_i = \frac{s_i}{\sum_j s_j}

    where :math:`s` are the **singular values** (not the eigenvalues of the covariance) of `z` minus its mean over the
    batch. RankMe itself does not center; centering keeps a common offset, which carries no information, from counting
    as a dimension.

    Args:
        z: embeddings `[batch, dim]`, any floating dtype; at least two rows.

    Returns:
        float32 scalar from 1 (all embeddings on one line, or equal) to min(batch - 1, dim).

    Source: Garrido et al., RankMe (arXiv 2210.02885), equation 1; Roy and Vetterli, The effective rank (EUSIPCO 2007).
    """
    return rank_of_spectrum(spectrum(z))


def rank_of_spectrum(eigenvalues):
    """Compute the effective rank from the result of `spectrum` or `spectrum_on_host`.

    Args:
        eigenvalues: float32 `[n]`, not negative. A NumPy array is computed on the host.

    Returns:
        float32 scalar, as from `effective_rank`.

    Example:
        >>> rank_of_spectrum(jnp.array([4.0, 4.0, 4.0, 0.0])).round(4)
        Array(3., dtype=float32)
    """
    numpy = np if isinstance(eigenvalues, np.ndarray) else jnp
    is_zero = eigenvalues == 0
    # The root of 0 has no gradient.
    singular_values = numpy.where(is_zero, 0, numpy.sqrt(numpy.where(is_zero, 1, eigenvalues)))
    p = singular_values / numpy.maximum(numpy.sum(singular_values), numpy.finfo(numpy.float32).tiny)
    return numpy.exp(-numpy.sum(p * numpy.log(numpy.where(p > 0, p, 1))))


def collapse_monitor(z: jax.Array) -> dict[str, jax.Array]:
    """Compute what `collapse_metrics` needs of the first `MONITORED_ROWS` embeddings, for the train step.

    Args:
        z: embeddings `[batch, dim]`, any floating dtype; at least two rows.

    Returns:
        float32 arrays by name: the scalar `embedding_std`, and `embedding_gram`, their `gram_matrix`.
    """
    z = z[:MONITORED_ROWS]
    return {"embedding_std": embedding_std(z), "embedding_gram": gram_matrix(z)}


def collapse_metrics(monitored: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Compute `embedding_std` and `effective_rank` on the host, from the results of `collapse_monitor`."""
    rank = rank_of_spectrum(spectrum_on_host(monitored["embedding_gram"]))
    return {"embedding_std": monitored["embedding_std"].item(), "effective_rank": rank.item()}


def collapse_warning(
    embedding_std: float, effective_rank: float, *, dim: int, batch_size: int, target_std: float = 1.0
) -> str | None:
    """Describe the collapse of the embeddings, if they are collapsing.

    The thresholds are far from every healthy run. Complete collapse, all images getting nearly the same embedding: a
    standard deviation below `STD_FLOOR` times the target. Dimensional collapse, the embeddings spanning a few
    dimensions: an effective rank below `1 + RANK_FLOOR * (max_rank - 1)`, where `max_rank` is min(batch_size - 1, dim).
    The text depends only on the kind of collapse, so that a caller can tell a new warning from a repeated one.

    Args:
        embedding_std: of one batch, from `embedding_std`.
        effective_rank: of the same batch, from `effective_rank`.
        dim: dimension of the embeddings.
        batch_size: number of embeddings in the batch; it bounds the rank.
        target_std: healthy value of `embedding_std`: 1 for VICReg, 1 / sqrt(dim) for embeddings of unit length.

    Returns:
        One sentence or two; None if the embeddings are healthy.

    Example:
        >>> collapse_warning(0.98, 120.0, dim=512, batch_size=256)
        >>> collapse_warning(0.98, 2.1, dim=512, batch_size=256)[:55]
        'the embeddings span only a few dimensions (effective_ra'
    """
    if not (math.isfinite(embedding_std) and math.isfinite(effective_rank)):
        return "the embeddings are not finite: lower the base learning rate or lengthen the warm-up"
    if embedding_std < STD_FLOOR * target_std:
        return (
            "the embeddings have collapsed: all images have nearly the same embedding (embedding_std below "
            f"{STD_FLOOR * target_std:.2g}; about {target_std:.2g} is healthy). Increase the weight of the term that "
            "spreads them (such as variance_weight), lower the base learning rate or lengthen the warm-up"
        )
    max_rank = min(batch_size - 1, dim)
    rank_floor = 1 + RANK_FLOOR * (max_rank - 1)
    if effective_rank < rank_floor:
        return (
            f"the embeddings span only a few dimensions (effective_rank below {rank_floor:.1f}; at most {max_rank} is "
            "possible). Increase the weight of the term that decorrelates them (such as covariance_weight), or use "
            "larger batches or stronger augmentation"
        )
    return None
