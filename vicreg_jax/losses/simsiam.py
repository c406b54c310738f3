"""SimSiam's loss (Chen and He, CVPR 2021, arXiv 2011.10566)."""

from collections.abc import Hashable

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import as_batch
from vicreg_jax.losses.normalize import l2_normalize


def simsiam_loss(
    prediction_a: ArrayLike,
    prediction_b: ArrayLike,
    projection_a: ArrayLike,
    projection_b: ArrayLike,
    *,
    stop_gradient: bool = True,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    r"""Negative cosine between each view's prediction and the other view's projection, averaged over both directions.

    .. math:: -\frac{1}{2N} \sum_n \cos(p^a_n, z^b_n) + \cos(p^b_n, z^a_n)

    Args:
        prediction_a: the predictor's output for view a, `[batch, dim]`, any floating dtype; normalized here, as are
            the other three.
        prediction_b: the predictor's output for view b, with the same shape.
        projection_a: the projector's output for view a, which is the predictor's input, with the same shape.
        projection_b: the projector's output for view b, with the same shape.
        stop_gradient: whether to stop the gradient into the projections, as in the paper. Without it the network
            collapses (the paper's section 4.1). Static.
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If no row
            counts, the loss is 0.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which it is sharded. Average the parameter gradients over it (`lax.pmean`).

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the batch, in [-1, 1], the same on every
        device. It is also -1 if all embeddings have collapsed to one vector: watch their standard deviation.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]` or the shapes differ.

    Source: paper, equations 1, 2 and 4; facebookresearch/simsiam, `main_simsiam.py`, line 295.

    >>> import jax.numpy as jnp
    >>> x, y = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 1.0]])
    >>> print(simsiam_loss(x, y, projection_a=y, projection_b=x))
    -1.0
    """
    batch, embeddings = as_batch(
        where,
        axis_name,
        prediction_a=prediction_a,
        prediction_b=prediction_b,
        projection_a=projection_a,
        projection_b=projection_b,
    )
    p_a, p_b, z_a, z_b = (l2_normalize(z) for z in embeddings)
    if stop_gradient:
        z_a, z_b = lax.stop_gradient((z_a, z_b))
    cosines = jnp.sum(p_a * z_b + p_b * z_a, axis=1)
    return -batch.mean(cosines) / 2
