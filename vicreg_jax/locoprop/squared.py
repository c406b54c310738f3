"""The exact minimizer of the squared local loss."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def squared_solution(
    inputs: ArrayLike,
    kernel: ArrayLike,
    gradient: ArrayLike,
    *,
    activation_rate: float | Array,
    step_size: float | Array,
) -> Array:
    r"""The kernel that minimizes the squared local loss with a proximity term.

    .. math:: \arg\min_{W'} \tfrac12 \|X W' - (X W - \gamma g)\|^2 + \tfrac{1}{2 \eta} \|W' - W\|^2
        = W - \gamma\, (X^\top X + I / \eta)^{-1} X^\top g

    This is the update with the right factor of K-FAC, learning rate :math:`\gamma` and damping :math:`1 / \eta`. For a
    batch smaller than the inputs' dimension, the push-through identity gives a system of the batch's size:

    .. math:: (X^\top X + I / \eta)^{-1} X^\top = X^\top (X X^\top + I / \eta)^{-1}

    To include a bias, append it to the kernel as a row and append a column of ones to the inputs.

    Args:
        inputs: :math:`X`, `[batch, in]`, floating.
        kernel: :math:`W`, `[in, out]`, floating.
        gradient: :math:`g`, the loss's gradient with respect to the pre-activations :math:`X W`, `[batch, out]`.
        activation_rate: :math:`\gamma`.
        step_size: :math:`\eta`, positive; the smaller, the nearer :math:`W'` stays to :math:`W`.

    Returns:
        :math:`W'`, `[in, out]`, in the dtype of the kernel; solved in float32, or in float64 if an argument is.

    Raises:
        TypeError: a dtype is not floating.
        ValueError: the shapes do not match, or `step_size` is not positive.

    Source: Amid, Anil, Warmuth, LocoProp (AISTATS 2022, arXiv 2106.06199); Benzing, Gradient Descent on Neurons
        (ICML 2022, arXiv 2201.12250).

    >>> import jax.numpy as jnp
    >>> X, W = jnp.array([[2.0]]), jnp.array([[1.0]])
    >>> print(squared_solution(X, W, jnp.array([[1.0]]), activation_rate=1.0, step_size=1.0))  # 1 - 2 / (4 + 1)
    [[0.6]]
    """
    arrays = {"inputs": jnp.asarray(inputs), "kernel": jnp.asarray(kernel), "gradient": jnp.asarray(gradient)}
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating-point; got dtype {array.dtype}")
        if array.ndim != 2 or array.size == 0:
            raise ValueError(f"{name} must have two dimensions, neither of size 0; got shape {array.shape}")
    x, w, g = arrays.values()
    if w.shape[0] != x.shape[1]:
        raise ValueError(f"kernel must have {x.shape[1]} rows, one per column of inputs; got shape {w.shape}")
    if g.shape != (x.shape[0], w.shape[1]):
        raise ValueError(f"gradient must have shape [batch, out], {(x.shape[0], w.shape[1])}; got shape {g.shape}")
    if not isinstance(step_size, jax.core.Tracer) and not step_size > 0:
        raise ValueError(f"step_size must be positive; got {step_size}")
    dtype = jnp.float64 if any(array.dtype == jnp.float64 for array in (x, w, g)) else jnp.float32
    x, start, g = x.astype(dtype), w.astype(dtype), g.astype(dtype)
    damping = jnp.asarray(1 / step_size, dtype)
    batch, features = x.shape
    if batch < features:
        move = x.T @ jax.scipy.linalg.solve(x @ x.T + damping * jnp.eye(batch, dtype=dtype), g, assume_a="pos")
    else:
        move = jax.scipy.linalg.solve(x.T @ x + damping * jnp.eye(features, dtype=dtype), x.T @ g, assume_a="pos")
    return (start - jnp.asarray(activation_rate, dtype) * move).astype(w.dtype)
