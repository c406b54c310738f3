"""Log-sums over similarities."""

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

# The default precision (bfloat16 on TPU, TF32 on GPU) is too low for exponents.
einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


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


def log_similarity_sum(
    anchors: Array, candidates: Array, *, excluded: Array | None = None, block_size: int | None = None
) -> Array:
    r"""Return :math:`\log \sum_{s, m} \exp(\langle a_{vn}, c_{sm} \rangle)` for each anchor.

    Anchors are taken a block at a time, and a block's similarities are not kept for its derivative: what is alive is of
    the size `[block_size, sets, candidates]`, three times at most.

    Args:
        anchors: `[views, batch, dim]`, float32 or wider, divided by the temperature.
        candidates: `[sets, candidates, dim]` in the same dtype, on every device in full.
        excluded: int `[batch]`, the position in each set that the n-th anchor of each view leaves out, or None.
        block_size: anchors at a time, at most; None for a quarter of the batch, or for those that make 65,536
            similarities where that is more.

    Returns:
        `[views, batch]` in the dtype of the anchors; the least finite number where nothing is left to sum.
    """
    views, batch, dim = anchors.shape
    if block_size is None:
        block_size = max(math.ceil(batch / 4), 2**16 // (candidates.shape[0] * candidates.shape[1]))
    blocks = math.ceil(batch / block_size)
    block_size = math.ceil(batch / blocks)  # of one size, so that next to nothing is padded
    if excluded is None:
        excluded = jnp.full(batch, -1)

    # Every blocks-th row makes a block, not a run of rows: where jit has the batch sharded over devices, each has its
    # share of every block.
    def to_blocks(x: Array) -> Array:
        padded = jnp.pad(x, [(0, blocks * block_size - batch)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(block_size, blocks, *x.shape[1:]).swapaxes(0, 1)

    # Kept for the backward pass is what is as small as the anchors; similarities are made again where they are needed.
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


# The derivative by an anchor is the softmax's mean of the candidates, and made in the forward pass. Similarities are
# made again for the derivative by the candidates alone, if that is asked for.
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
    """`[anchors, sets, candidates]`, minus infinity where left out, for the exponential there may overflow."""
    is_excluded = jnp.arange(candidates.shape[1]) == excluded[:, None, None]
    return jnp.where(is_excluded, -jnp.inf, einsum("nd,smd->nsm", anchors, candidates))


def _exponentials(similarities: Array) -> tuple[Array, Array, Array]:
    """The logarithm of the sum of exponentials, the exponentials over the largest, and the sum of these."""
    largest = lax.stop_gradient(jnp.max(similarities, axis=(1, 2)))
    largest = jnp.maximum(largest, jnp.finfo(similarities.dtype).min)
    exponentials = jnp.exp(similarities - largest[:, None, None])
    total = jnp.sum(exponentials, axis=(1, 2))
    total = jnp.where(total == 0, 1, total)  # nothing is left to sum; else it is at least 1
    return largest + jnp.log(total), exponentials, total
