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
    r"""Cross-entropy of finding a query's positive key among its positive key and the negative keys, by cosine.

    .. math:: \frac{1}{N} \sum_n -\log \frac{\exp(\cos(q_n, k_n) / \tau)}
        {\exp(\cos(q_n, k_n) / \tau) + \sum_m \exp(\cos(q_n, k^-_m) / \tau)}

    No gradient is stopped: apply `lax.stop_gradient` to the keys if a target network computes them.

    Args:
        query: `[batch, dim]`, any floating dtype; normalized here, as are the keys.
        positive_key: the key of each query, with the same shape.
        negative_keys: `[negatives, dim]`, shared by all queries: MoCo's queue. The same on every device.
        temperature: :math:`\tau`, above 0; may be traced and differentiated.
        block_size: maximum number of queries per block, which bounds the memory: arrays have shape
            `[block_size, negatives]`. None: a quarter of this array's rows, or the number that makes 65,536
            similarities if that is larger. The value does not depend on it.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which `query` and `positive_key` are sharded. Average the parameter gradients over it
            (`lax.pmean`).

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the queries, the same on every device.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]`, the shapes of `query` and `positive_key` differ, `negative_keys`
            has a different dim, `temperature` is not above 0, or `block_size` is not a positive integer.

    Source: paper, equation 1 and algorithm 1; facebookresearch/moco, `moco/builder.py`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> keys = jnp.eye(4)
    >>> print(f"{info_nce_loss(keys[:2], keys[:2], keys[2:], temperature=1.0):.3f}")  # log(1 + 2 / e)
    0.551

    The textbook form, which builds all logits at once and rounds losses below 1e-7 to 0 in float32:

    >>> q, k, negatives = jax.random.normal(jax.random.key(0), (3, 4, 5))
    >>> u_q, u_k, u_n = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (q, k, negatives))
    >>> logits = jnp.concatenate([jnp.sum(u_q * u_k, axis=1, keepdims=True), u_q @ u_n.T], axis=1) / 0.07
    >>> textbook = -jnp.mean(jax.nn.log_softmax(logits)[:, 0])
    >>> bool(jnp.allclose(info_nce_loss(q, k, negatives), textbook, rtol=1e-5))
    True
    """
    query, positive_key = as_embeddings(query=query, positive_key=positive_key)
    (negative_keys,) = as_embeddings(negative_keys=negative_keys)
    if negative_keys.shape[1] != query.shape[1]:
        raise ValueError(f"negative_keys must have the dim of query, {query.shape[1]}; got shape {negative_keys.shape}")
    dtype = jnp.result_type(query, negative_keys)
    query, positive_key, negative_keys = (z.astype(dtype) for z in (query, positive_key, negative_keys))
    temperature = as_temperature(query.dtype, temperature)
    check_block_size(block_size)
    unit_query = l2_normalize(query) / temperature
    positive = jnp.sum(unit_query * l2_normalize(positive_key), axis=1)
    negatives = log_similarity_sum(unit_query[None], l2_normalize(negative_keys)[None], block_size=block_size)[0]
    # -log(p / (p + n)) = log(1 + n / p): no cancellation where p is much larger than n.
    return axis_mean(jnp.mean(jax.nn.softplus(negatives - positive)), axis_name)
