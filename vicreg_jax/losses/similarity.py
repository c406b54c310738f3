"""Similarities of every anchor to every candidate, no more of them at a time than fit."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from vicreg_jax.losses.product import product


def log_similarity_sum(
    anchors: Array, candidates: Array, *, excluded: Array | None = None, block_size: int | None = None
) -> Array:
    r"""Return :math:`\log \sum_{s, m} \exp(\langle a_{vn}, c_{sm} \rangle)` for each anchor.

    Anchors are taken a block at a time, and a block's similarities are made again for its derivative: what is alive is
    of the size `[block_size, sets, candidates]`, three times at most.

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

    @jax.checkpoint
    def of_block(block: tuple[Array, Array]) -> Array:
        anchors, excluded = block
        return _log_sum_exp(product("nd,smd->nsm", anchors, candidates), excluded)

    anchor_blocks = jax.vmap(to_blocks)(anchors).reshape(views * blocks, block_size, dim)
    sums = lax.map(of_block, (anchor_blocks, jnp.tile(to_blocks(excluded), (views, 1))))
    return sums.reshape(views, blocks, block_size).swapaxes(1, 2).reshape(views, -1)[:, :batch]


# With a rule of its own, the derivative takes one array beside the similarities.
@jax.custom_jvp
def _log_sum_exp(similarities: Array, excluded: Array) -> Array:
    # Finite, so that a sum over nothing has a derivative.
    least = jnp.finfo(similarities.dtype).min
    return jax.nn.logsumexp(jnp.where(_is(excluded, similarities), least, similarities), axis=(1, 2))


@_log_sum_exp.defjvp
def _log_sum_exp_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    similarities, excluded = primals
    log_sum = _log_sum_exp(similarities, excluded)
    # Left out before the exponential, which of what is left out may overflow.
    logits = jnp.where(_is(excluded, similarities), -jnp.inf, similarities - log_sum[:, None, None])
    return log_sum, jnp.sum(jnp.exp(logits) * tangents[0], axis=(1, 2))


def _is(excluded: Array, similarities: Array) -> Array:
    return jnp.arange(similarities.shape[2]) == excluded[:, None, None]
