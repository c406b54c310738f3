"""Log-sums of exponentials over cosine similarities, in blocks that bound the memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from vicreg_jax.losses.global_batch import GlobalBatch, explicit_shards

# The default precision (bfloat16 on TPU, TF32 on GPU) is too low: the exponential magnifies the error.
einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def other_rows_log_sum(anchors: Array, candidates: Array, block_size: int | None, batch: GlobalBatch) -> Array:
    r"""Compute the log-sum-exp of each anchor's similarities to the candidates of all other rows, its negatives.

    .. math:: \log \sum_s \sum_{m \ne n} \exp(\langle a_{vn}, c_{sm} \rangle)

    The textbook form, which builds all similarities at once:

    >>> anchors, candidates = jax.random.normal(jax.random.key(0), (2, 3, 6, 4))
    >>> is_other_row = ~jnp.eye(6, dtype=bool)[None, :, None]
    >>> similarities = jnp.einsum("vnd,smd->vnsm", anchors, candidates)
    >>> textbook = jax.nn.logsumexp(similarities, axis=(2, 3), where=is_other_row)
    >>> bool(jnp.allclose(other_rows_log_sum(anchors, candidates, 4, GlobalBatch(None, 6)), textbook, rtol=1e-5))
    True

    Args:
        anchors: `[views, batch, dim]`, float32 or wider, already divided by the temperature.
        candidates: `[sets, batch, dim]` in the same dtype: this shard's rows.
        block_size: as in `log_similarity_sum`.
        batch: the rows that count.

    Returns:
        `[views, batch]` in the dtype of the anchors: this shard's rows, reduced over sets and over the rows of the
        global batch that count. It means nothing for an anchor that does not count.
    """
    return log_similarity_sum(
        anchors,
        batch.gather(candidates, rows_axis=1),
        excluded=batch.positions(anchors[0]),
        where=None if batch.where is None else batch.gather(batch.where),
        block_size=block_size,
    )


def log_similarity_sum(
    anchors: Array,
    candidates: Array,
    *,
    excluded: Array | None = None,
    where: Array | None = None,
    block_size: int | None = None,
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
        where: bool `[candidates]`, the positions in each set that count, or None.
        block_size: maximum number of anchors per block. None: a quarter of the batch, or the number that makes 65,536
            similarities if that is larger.

    Returns:
        `[views, batch]` in the dtype of the anchors, reduced over sets and candidates; half of the minimum finite
        number if every candidate is excluded.
    """
    views, batch, dim = anchors.shape
    block_size, blocks = _block_sizes(anchors, candidates, block_size)
    if excluded is None:
        excluded = jnp.full(batch, -1, jnp.int32)

    # A block holds every blocks-th row instead of consecutive rows: if jit shards the batch over devices, each device
    # has its share of every block.
    def to_blocks(x: Array) -> Array:
        padded = jnp.pad(x, [(0, blocks * block_size - batch)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(block_size, blocks, *x.shape[1:]).swapaxes(0, 1)

    # Save only arrays as small as the anchors for the backward pass; recompute similarities where they are needed.
    @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names("log_sum", "mean_candidate"))
    def of_block(block: tuple[Array, Array]) -> Array:
        anchors, excluded = block
        return _log_sum(anchors, candidates, excluded, where)

    anchor_blocks = jax.vmap(to_blocks)(anchors).reshape(views * blocks, block_size, dim)
    sums = lax.map(of_block, (anchor_blocks, jnp.tile(to_blocks(excluded), (views, 1))))
    return sums.reshape(views, blocks, block_size).swapaxes(1, 2).reshape(views, -1)[:, :batch]


def _block_sizes(anchors: Array, candidates: Array, block_size: int | None) -> tuple[int, int]:
    """Return the number of anchors of a block, and of blocks."""
    batch = anchors.shape[1]
    if not isinstance(batch, int):  # a symbolic shape
        return (_ceil(batch, 4), 4) if block_size is None else (block_size, _ceil(batch, block_size))
    if block_size is None:
        block_size = max(_ceil(batch, 4), 2**16 // (candidates.shape[0] * candidates.shape[1]))
    blocks, shards = _ceil(batch, block_size), explicit_shards(anchors, axis=1)
    return shards * _ceil(_ceil(batch, blocks), shards), blocks  # equal blocks need almost no padding


def _ceil(x: int, divisor: int) -> int:
    return -(-x // divisor)


@jax.custom_jvp
def _log_sum(anchors: Array, candidates: Array, excluded: Array, where: Array | None) -> Array:
    return _exponentials(_similarities(anchors, candidates, excluded, where))[0]


# The derivative with respect to an anchor is the softmax-weighted mean of the candidates, computed in the forward pass.
# Similarities are recomputed only for the derivative with respect to the candidates, and only if it is needed.
@partial(_log_sum.defjvp, symbolic_zeros=True)
def _log_sum_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    anchors, candidates, excluded, where = primals
    anchors_dot, candidates_dot, *_ = tangents
    similarities = _similarities(anchors, candidates, excluded, where)
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


def _similarities(anchors: Array, candidates: Array, excluded: Array, where: Array | None) -> Array:
    """Compute `[anchors, sets, candidates]`, with the minimum finite number where excluded.

    There the exponential itself could overflow.
    """
    is_excluded = jnp.arange(candidates.shape[1], dtype=excluded.dtype)[None, None] == excluded[:, None, None]
    if where is not None:
        is_excluded |= ~where[None, None]
    similarities = einsum("nd,smd->nsm", anchors, candidates)
    return jnp.where(is_excluded, jnp.finfo(similarities.dtype).min, similarities)


def _exponentials(similarities: Array) -> tuple[Array, Array, Array]:
    """Return the log-sum-exp, the exponentials relative to the maximum, and their sum."""
    max_similarity = lax.stop_gradient(jnp.max(similarities, axis=(1, 2)))
    # Above what stands for excluded, so that the exponentials of a row with nothing else are 0.
    max_similarity = jnp.maximum(max_similarity, jnp.finfo(similarities.dtype).min / 2)
    exponentials = jnp.exp(similarities - max_similarity[:, None, None])
    total = jnp.sum(exponentials, axis=(1, 2))
    total = jnp.where(total == 0, 1, total)  # 0 if every candidate is excluded, otherwise at least 1
    return max_similarity + jnp.log(total), exponentials, total
