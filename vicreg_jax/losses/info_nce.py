"""InfoNCE with a queue of negatives (MoCo, He et al., CVPR 2020) or within the batch (CLIP, Radford et al. 2021)."""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import (
    POSITIVE,
    as_batch,
    as_dtype,
    as_embeddings,
    as_scalars,
    check_block_size,
    widest_dtype,
)
from vicreg_jax.losses.global_batch import replicated
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.losses.similarity import log_similarity_sum, other_rows_log_sum


def info_nce_loss(
    query: ArrayLike,
    positive_key: ArrayLike,
    negative_keys: ArrayLike | None = None,
    *,
    temperature: float | Array = 0.07,
    symmetric: bool = False,
    block_size: int | None = None,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    r"""Cross-entropy of finding a query's positive key among its positive key and the negative keys, by cosine.

    .. math:: \frac{1}{N} \sum_n -\log \frac{\exp(\cos(q_n, k_n) / \tau)}
        {\exp(\cos(q_n, k_n) / \tau) + \sum_m \exp(\cos(q_n, k^-_m) / \tau)}

    Without `negative_keys`, the negatives of a query are the positive keys of all other queries of the global batch.
    No gradient is stopped: apply `lax.stop_gradient` to the keys if a target network computes them.

    Args:
        query: `[batch, dim]`, any floating dtype; normalized here, as are the keys.
        positive_key: the key of each query, with the same shape.
        negative_keys: None: the other queries' keys. `[negatives, dim]`: shared by all queries, as in MoCo's queue; the
            same on every device. `[batch, negatives, dim]`: each query has its own.
        temperature: :math:`\tau`, above 0; may be traced and differentiated.
        symmetric: whether to average over both directions, so that keys look for their queries as well: CLIP's loss.
            Only without `negative_keys`. Static.
        block_size: maximum number of queries per block, which bounds the memory: arrays have shape
            `[block_size, negatives]`. None: a quarter of this array's rows, or the number that makes 65,536
            similarities if that is larger. The value does not depend on it.
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If no row
            counts, the loss is 0.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which `query` and `positive_key` are sharded. Average the parameter gradients over it
            (`lax.pmean`).

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the queries, the same on every device. For
        a single query without negatives, it is 0.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]`, the shapes of `query` and `positive_key` differ, `negative_keys`
            has another batch or dim, `temperature` is not above 0, `symmetric` is set with `negative_keys`, or
            `block_size` is not a positive integer.

    Source: MoCo (arXiv 1911.05722), equation 1 and algorithm 1; facebookresearch/moco, `moco/builder.py`. In the batch,
    both ways: CLIP (arXiv 2103.00020), figure 3; openai/CLIP has no loss, mlfoundations/open_clip,
    `src/open_clip/loss.py`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> keys = jnp.eye(4)
    >>> print(f"{info_nce_loss(keys[:2], keys[:2], keys[2:], temperature=1.0):.3f}")  # log(1 + 2 / e)
    0.551
    >>> print(f"{info_nce_loss(keys, keys, symmetric=True, temperature=1.0):.3f}")  # log(1 + 3 / e)
    0.744

    The textbook form, which builds all logits at once and rounds losses below 1e-7 to 0 in float32:

    >>> q, k, negatives = jax.random.normal(jax.random.key(0), (3, 4, 5))
    >>> u_q, u_k, u_n = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (q, k, negatives))
    >>> logits = jnp.concatenate([jnp.sum(u_q * u_k, axis=1, keepdims=True), u_q @ u_n.T], axis=1) / 0.07
    >>> textbook = -jnp.mean(jax.nn.log_softmax(logits)[:, 0])
    >>> bool(jnp.allclose(info_nce_loss(q, k, negatives), textbook, rtol=1e-5))
    True

    And within the batch:

    >>> logits = u_q @ u_k.T / 0.07
    >>> textbook = -jnp.mean(jnp.diag(jax.nn.log_softmax(logits, axis=1) + jax.nn.log_softmax(logits, axis=0))) / 2
    >>> bool(jnp.allclose(info_nce_loss(q, k, symmetric=True), textbook, rtol=1e-5))
    True
    """
    if symmetric and negative_keys is not None:
        raise ValueError("symmetric must be False with negative_keys, whose queries are not known; got True")
    batch, (query, positive_key) = as_batch(where, axis_name, query=query, positive_key=positive_key)
    if negative_keys is not None:
        negative_keys = _as_negatives(query, negative_keys)
        dtype = widest_dtype(query, negative_keys)
        query, positive_key, negative_keys = as_dtype(dtype, query, positive_key, negative_keys)
    (temperature,) = as_scalars(query.dtype, POSITIVE, temperature=temperature)
    check_block_size(block_size)
    unit_query, unit_key = l2_normalize(query) / temperature, l2_normalize(positive_key)
    positive = jnp.sum(unit_query * unit_key, axis=1)
    if negative_keys is None:
        negatives = other_rows_log_sum(unit_query[None], unit_key[None], block_size, batch)
        if symmetric:
            of_keys = other_rows_log_sum(unit_key[None], unit_query[None], block_size, batch)
            negatives = jnp.concatenate([negatives, of_keys])
    elif negative_keys.ndim == 2:
        unit_negatives = replicated(l2_normalize(negative_keys))
        negatives = log_similarity_sum(unit_query[None], unit_negatives[None], block_size=block_size)
    else:
        unit_negatives = jax.vmap(l2_normalize)(batch.keep(negative_keys))
        negatives = jax.nn.logsumexp(jnp.sum(unit_query[:, None] * unit_negatives, axis=2), axis=1)[None]
    # -log(p / (p + n)) = log(1 + n / p): no cancellation where p is much larger than n.
    return batch.mean(batch.keep(jax.nn.softplus(negatives - positive[None]), rows_axis=1))


def _as_negatives(query: Array, negative_keys: ArrayLike) -> Array:
    """Check negatives that all queries share, `[negatives, dim]`, or of each query, `[batch, negatives, dim]`."""
    negatives = jnp.asarray(negative_keys)
    if negatives.ndim == 3 and negatives.shape[0] == query.shape[0]:
        (rows,) = as_embeddings(negative_keys=negatives.reshape(-1, negatives.shape[2]))
        checked = rows.reshape(negatives.shape)
    elif negatives.ndim == 3:
        raise ValueError(
            f"negative_keys must have shape [negatives, dim] or [batch, negatives, dim] with the batch of query, "
            f"{query.shape[0]}; got shape {negatives.shape}"
        )
    else:
        (checked,) = as_embeddings(negative_keys=negatives)
    if checked.shape[-1] != query.shape[1]:
        raise ValueError(f"negative_keys must have the dim of query, {query.shape[1]}; got shape {checked.shape}")
    return checked
