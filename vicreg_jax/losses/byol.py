"""BYOL's loss (Grill et al., NeurIPS 2020, arXiv 2006.07733)."""

from collections.abc import Hashable

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import as_batch
from vicreg_jax.losses.normalize import l2_normalize


def byol_loss(
    prediction_a: ArrayLike,
    prediction_b: ArrayLike,
    target_a: ArrayLike,
    target_b: ArrayLike,
    *,
    stop_gradient: bool = True,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    r"""Squared distance between each view's normalized prediction and the other view's normalized target.

    .. math:: \frac{1}{N} \sum_n \ell(p^a_n, t^b_n) + \ell(p^b_n, t^a_n), \qquad
        \ell(p, t) = \Bigl\| \frac{p}{\|p\|} - \frac{t}{\|t\|} \Bigr\|^2 = 2 - 2 \cos(p, t)

    Args:
        prediction_a: the online network's prediction for view a, `[batch, dim]`, any floating dtype; normalized here,
            as are the other three.
        prediction_b: the online network's prediction for view b, with the same shape.
        target_a: the target network's projection of view a, with the same shape.
        target_b: the target network's projection of view b, with the same shape.
        stop_gradient: whether to stop the gradient into the targets, as in the paper. Static.
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If no row
            counts, the loss is 0.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which it is sharded. Average the parameter gradients over it (`lax.pmean`).

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over the batch of the sum of both directions, in
        [0, 8], the same on every device.

    Raises:
        TypeError: if a dtype is not floating-point.
        ValueError: if a shape is not `[batch, dim]` or the shapes differ.

    Source: paper, equation 2; google-deepmind/deepmind-research, `byol/utils/helpers.py` and
    `byol/byol_experiment.py`, lines 243 to 250.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> x, y = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 1.0]])
    >>> print(byol_loss(x, y, target_a=y, target_b=x), byol_loss(x, y, target_a=x, target_b=y))
    0.0 4.0

    The textbook form, which cancels where the loss is small:

    >>> p_a, p_b, t_a, t_b = jax.random.normal(jax.random.key(0), (4, 8, 5))
    >>> u_a, u_b, v_a, v_b = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (p_a, p_b, t_a, t_b))
    >>> textbook = jnp.mean(2 - 2 * jnp.sum(u_a * v_b, axis=1) + 2 - 2 * jnp.sum(u_b * v_a, axis=1))
    >>> bool(jnp.allclose(byol_loss(p_a, p_b, t_a, t_b), textbook, rtol=1e-5))
    True
    """
    batch, embeddings = as_batch(
        where, axis_name, prediction_a=prediction_a, prediction_b=prediction_b, target_a=target_a, target_b=target_b
    )
    p_a, p_b, t_a, t_b = (l2_normalize(z) for z in embeddings)
    if stop_gradient:
        t_a, t_b = lax.stop_gradient((t_a, t_b))
    difference_a, difference_b = p_a - t_b, p_b - t_a
    squares = difference_a * difference_a + difference_b * difference_b
    return batch.mean(jnp.sum(squares, axis=1))
