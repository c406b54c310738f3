"""Log-sums of exponentials over cosine similarities, in blocks that bound the memory."""

import math
from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from vicreg_jax.losses.mapped_axis import gather_rows, row_positions
from vicreg_jax.losses.normalize import l2_normalize

# The default precision (bfloat16 on TPU, TF32 on GPU) is too low: the exponential magnifies the error.
einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def in_batch_logits(
    z_a: Array, z_b: Array, temperature: Array, block_size: int | None, axis_name: Hashable | None
) -> tuple[Array, Array]:
    """Compute each anchor's positive logit, and the log-sum-exp over the logits of its 2N - 2 negatives.

    The rows of both views are anchors. The positive is the same row of the other view. The negatives are all other
    rows of the global batch, in both views. Logits are cosines divided by the temperature. The textbook form, which
    builds the 2N x 2N matrix:

    >>> z_a, z_b = jax.random.normal(jax.random.key(0), (2, 4, 5))
    >>> u = jnp.concatenate([z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (z_a, z_b)])
    >>> logits, is_self_or_positive = u @ u.T / 0.5, jnp.tile(jnp.eye(4, dtype=bool), (2, 2))
    >>> textbook = jnp.diag(logits[:4, 4:]), jax.nn.logsumexp(logits, axis=1, where=~is_self_or_positive)
    >>> positive, negatives = in_batch_logits(z_a, z_b, 0.5, None, None)
    >>> bool(jnp.allclose(positive, textbook[0], rtol=1e-5) & jnp.allclose(negatives.ravel(), textbook[1], rtol=1e-5))
    True

    Args:
        z_a: embeddings of view a, `[batch, dim]`, float32 or wider.
        z_b: embeddings of view b, with the same shape and dtype.
        temperature: above 0.
        block_size: as in `log_similarity_sum`.
        axis_name: None if the arrays hold the global batch, otherwise the mapped axis over which it is sharded.

    Returns:
        The positive logits `[batch]`, which both views share, and the log-sums over negatives `[2, batch]`, in the
        dtype of the embeddings: this shard's rows, reduced over the candidates of the global batch.
    """
    u_a, u_b = l2_normalize(z_a), l2_normalize(z_b)
    positive = jnp.sum(u_a * u_b, axis=1) / temperature
    negatives = log_similarity_sum(
        jnp.stack([u_a, u_b]) / temperature,
        jnp.stack([gather_rows(u_a, axis_name), gather_rows(u_b, axis_name)]),
        excluded=row_positions(z_a, axis_name),  # the anchor itself in one set, its positive in the other
        block_size=block_size,
    )
    return positive, negatives


def log_similarity_sum(
    anchors: Array, candidates: Array, *, excluded: Array | None = None, block_size: int | None = None
) -> Array:
    r"""Compute the log-sum-exp of each anchor's similarities to all candidates.

    .. math:: \log \sum_{s, m} \exp(\langle a_{vn}, c_{sm} \rangle)

    The textbook form, which builds all similarities at once:

    >>> anchors = jax.random.normal(jax.random.key(0), (2, 6, 4))
    >>> candidates = jax.random.normal(jax.random.key(1), (3, 5, 4))
    >>> textbook = jax.nn.logsumexp(jnp.einsum("vnd,smd->vnsm", anchors, candidates), axis=(2, 3))
    >>> bool(jnp.allclose(log_similarity_sum(anchors, candidates, block_size=4), textbook, rtol=1e-5))
    True

    Here anchors are processed in blocks, and a block's similarities are not saved for the backward pass. At most three
    arrays of shape `[block_size, sets, candidates]` are alive at a time.

    Args:
        anchors: `[views, batch, dim]`, float32 or wider, already divided by the temperature.
        candidates: `[sets, candidates, dim]` in the same dtype, complete on every device.
        excluded: int `[batch]`, the position in each set that the n-th anchor of each view excludes, or None.
        block_size: maximum number of anchors per block. None: a quarter of the batch, or the number that makes 65,536
            similarities if that is larger.

    Returns:
        `[views, batch]` in the dtype of the anchors, reduced over sets and candidates; the minimum finite number if
        every candidate is excluded.
    """
    views, batch, dim = anchors.shape
    if block_size is None:
        block_size = max(math.ceil(batch / 4), 2**16 // (candidates.shape[0] * candidates.shape[1]))
    blocks = math.ceil(batch / block_size)
    block_size = math.ceil(batch / blocks)  # equal blocks need almost no padding
    if excluded is None:
        excluded = jnp.full(batch, -1)

    # A block holds every blocks-th row instead of consecutive rows: if jit shards the batch over devices, each device
    # has its share of every block.
    def to_blocks(x: Array) -> Array:
        padded = jnp.pad(x, [(0, blocks * block_size - batch)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(block_size, blocks, *x.shape[1:]).swapaxes(0, 1)

    # Save only arrays as small as the anchors for the backward pass; recompute similarities where they are needed.
    @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names("log_sum", "mean_candidate"))
    def of_block(block: tuple[Array, Array]) -> Array:
        anchors, excluded = block
        return _log_sum(anchors, candidates, excluded)

    anchor_blocks = jax.vmap(to_blocks)(anchors).reshape(views * blocks, block_size, dim)
    sums = lax.map(of_block, (anchor_blocks, jnp.tile(to_blocks(excluded), (views, 1))))
    return sums.reshape(views, blocks, block_size).swapaxes(1, 2).reshape(views, -1)[:, :batch]


@jax.custom_jvp
def _log_sum(anchors: Array, candidates: Array, excluded: Array) -> Array:
    return _exponentials(_similarities(anchors, candidates, excluded))[0]


# The derivative with respect to an anchor is the softmax-weighted mean of the candidates, computed in the forward pass.
# Similarities are recomputed only for the derivative with respect to the candidates, and only if it is needed.
@partial(_log_sum.defjvp, symbolic_zeros=True)
def _log_sum_jvp(primals: tuple[Array, Array, Array], tangents: tuple[Any, Any, Any]) -> tuple[Array, Array]:
    anchors, candidates, excluded = primals
    anchors_dot, candidates_dot, _ = tangents
    similarities = _similarities(anchors, candidates, excluded)
    log_sum, exponentials, total = _exponentials(similarities)
    log_sum = checkpoint_name(log_sum, "log_sum")
    tangent = jnp.zeros_like(log_sum)
    if not isinstance(anchors_dot, SymbolicZero):
        mean_candidate = einsum("nsm,smd->nd", exponentials, candidates) / total[:, None]
        tangent += jnp.sum(checkpoint_name(mean_candidate, "mean_candidate") * anchors_dot, axis=1)
    if not isinstance(candidates_dot, SymbolicZero):
        weights = jnp.exp(similarities - log_sum[:, None, None])
        tangent += jnp.sum(weights * einsum("nd,smd->nsm", anchors, candidates_dot), axis=(1, 2))
    return log_sum, tangent


def _similarities(anchors: Array, candidates: Array, excluded: Array) -> Array:
    """Compute `[anchors, sets, candidates]`, with -inf where excluded: there the exponential itself could overflow."""
    is_excluded = jnp.arange(candidates.shape[1]) == excluded[:, None, None]
    return jnp.where(is_excluded, -jnp.inf, einsum("nd,smd->nsm", anchors, candidates))


def _exponentials(similarities: Array) -> tuple[Array, Array, Array]:
    """Return the log-sum-exp, the exponentials relative to the maximum, and their sum."""
    max_similarity = lax.stop_gradient(jnp.max(similarities, axis=(1, 2)))
    max_similarity = jnp.maximum(max_similarity, jnp.finfo(similarities.dtype).min)
    exponentials = jnp.exp(similarities - max_similarity[:, None, None])
    total = jnp.sum(exponentials, axis=(1, 2))
    total = jnp.where(total == 0, 1, total)  # 0 if every candidate is excluded, otherwise at least 1
    return max_similarity + jnp.log(total), exponentials, total
