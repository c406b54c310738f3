"""BYOL's loss (Grill et al., NeurIPS 2020, arXiv 2006.07733)."""

from collections.abc import Hashable

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import as_embeddings
from vicreg_jax.losses.mapped_axis import axis_mean
from vicreg_jax.losses.normalize import l2_normalize


def byol_loss(
    prediction_a: ArrayLike,
    prediction_b: ArrayLike,
    target_a: ArrayLike,
    target_b: ArrayLike,
    *,
    stop_gradient: bool = True,
    axis_name: Hashable | None = None,
) -> Array:
    r"""Squared distance of one view's prediction to the other view's target, unit vectors both, in both directions.

    .. math:: \frac{1}{N} \sum_n \ell(p^a_n, t^b_n) + \ell(p^b_n, t^a_n), \qquad
        \ell(p, t) = \Bigl\| \frac{p}{\|p\|} - \frac{t}{\|t\|} \Bigr\|^2 = 2 - 2 \cos(p, t)

    Args:
        prediction_a: the online network's prediction from view a, `[batch, dim]`, any floating dtype; normalized here.
        prediction_b: that from view b; all four arguments are of one shape.
        target_a: the target network's projection of view a.
        target_b: that of view b.
        stop_gradient: whether the targets are constants to the gradient, as in the paper. Static.
        axis_name: None if the arrays are the global batch (plain, or sharded under `jax.jit`); else the
            mapped axis along which they are shards. Average parameter gradients over it (`lax.pmean`).

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the batch of the sum of both directions, from
        0 to 8, the same on every device.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]` or the shapes differ.

    Source: paper, equation 2; google-deepmind/deepmind-research, `byol/utils/helpers.py` and
    `byol/byol_experiment.py`, lines 243 to 250.

    >>> import jax.numpy as jnp
    >>> x, y = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 1.0]])
    >>> print(byol_loss(x, y, target_a=y, target_b=x), byol_loss(x, y, target_a=x, target_b=y))
    0.0 4.0
    """
    embeddings = as_embeddings(
        prediction_a=prediction_a, prediction_b=prediction_b, target_a=target_a, target_b=target_b
    )
    p_a, p_b, t_a, t_b = (l2_normalize(z) for z in embeddings)
    if stop_gradient:
        t_a, t_b = lax.stop_gradient((t_a, t_b))
    # The difference, and not 2 - 2 cos, which loses the small values.
    of_a, of_b = p_a - t_b, p_b - t_a
    return axis_mean(jnp.mean(jnp.sum(of_a * of_a + of_b * of_b, axis=1)), axis_name)
