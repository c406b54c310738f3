"""InfoNCE with a queue of negatives, MoCo's loss (He, Fan, Wu, Xie, Girshick, CVPR 2020, arXiv 1911.05722)."""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import as_embeddings, as_temperature, check_block_size
from vicreg_jax.losses.mapped_axis import axis_mean
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.losses.similarity import log_similarity_sum


def info_nce_loss(
    query: ArrayLike,
    positive_key: ArrayLike,
    negative_keys: ArrayLike,
    *,
    temperature: float | Array = 0.07,
    block_size: int | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    r"""Cross-entropy of picking a query's positive key among that and the negatives, by cosine.

    .. math:: \frac{1}{N} \sum_n -\log \frac{\exp(\cos(q_n, k_n) / \tau)}
        {\exp(\cos(q_n, k_n) / \tau) + \sum_m \exp(\cos(q_n, k^-_m) / \tau)}

    No gradient is stopped: apply `lax.stop_gradient` to keys that are a target network's.

    Args:
        query: `[batch, dim]`, any floating dtype; normalized here, as are the keys.
        positive_key: the key of each query, of the same shape.
        negative_keys: `[negatives, dim]`, shared by all queries: MoCo's queue. The same on every device.
        temperature: :math:`\tau`, above 0; may be traced, and differentiated by.
        block_size: queries at a time, for memory: arrays of `[block_size, negatives]` are made. None for a quarter of
            this array's rows, or for those that make 65,536 similarities where that is more. Does not change
            the value.
        axis_name: None if the arrays are the global batch (plain, or sharded under `jax.jit`); else the
            mapped axis along which query and positive_key are shards. Average parameter gradients over it
            (`lax.pmean`).

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the queries, the same on every device.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]`, query and positive_key differ in theirs, negative_keys differ in
            dim, temperature is not above 0 or block_size is under 1.

    Source: paper, equation 1 and algorithm 1; facebookresearch/moco, `moco/builder.py`.

    >>> import jax.numpy as jnp
    >>> keys = jnp.eye(4)
    >>> print(f"{info_nce_loss(keys[:2], keys[:2], keys[2:], temperature=1.0):.3f}")  # log(1 + 2 / e)
    0.551
    """
    query, positive_key = as_embeddings(query=query, positive_key=positive_key)
    (negative_keys,) = as_embeddings(negative_keys=negative_keys)
    if negative_keys.shape[1] != query.shape[1]:
        raise ValueError(f"negative_keys must have the {query.shape[1]} columns of query; got {negative_keys.shape}")
    dtype = jnp.result_type(query, negative_keys)
    query, positive_key, negative_keys = (z.astype(dtype) for z in (query, positive_key, negative_keys))
    temperature = as_temperature(query.dtype, temperature)
    check_block_size(block_size)
    unit_query = l2_normalize(query) / temperature
    positive = jnp.sum(unit_query * l2_normalize(positive_key), axis=1)
    negatives = log_similarity_sum(unit_query[None], l2_normalize(negative_keys)[None], block_size=block_size)[0]
    return axis_mean(jnp.mean(jax.nn.softplus(negatives - positive)), axis_name)
