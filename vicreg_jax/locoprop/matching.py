"""Transfer functions, and the matching losses, whose gradient is activation minus target."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


class Transfer(NamedTuple):
    """A transfer function and its convex potential.

    Attributes:
        function: maps pre-activations to activations of the same shape.
        potential: sum over entries of F, whose gradient is the transfer function.
    """

    function: Callable[[Array], Array]
    potential: Callable[[Array], Array]


TRANSFERS = {
    "identity": Transfer(lambda a: a, lambda a: jnp.sum(a * a) / 2),
    "tanh": Transfer(jnp.tanh, lambda a: jnp.sum(jnp.logaddexp(a, -a) - jnp.log(2.0).astype(a.dtype))),  # log cosh
    "sigmoid": Transfer(jax.nn.sigmoid, lambda a: jnp.sum(jax.nn.softplus(a))),
    "softmax": Transfer(jax.nn.softmax, lambda a: jnp.sum(jax.nn.logsumexp(a, axis=-1))),
    "relu": Transfer(jax.nn.relu, lambda a: jnp.sum(jnp.square(jax.nn.relu(a))) / 2),
    "leaky_relu": Transfer(jax.nn.leaky_relu, lambda a: jnp.sum(a * jax.nn.leaky_relu(a)) / 2),
}


def matching_loss(pre_activation: ArrayLike, target: ArrayLike, transfer: str) -> Array:
    r"""The convex loss whose gradient with respect to the pre-activation is activation minus target.

    .. math:: \sum_i F(a_i) - t_i a_i, \qquad F' = f, \qquad \nabla_a = f(a) - t

    This is the Bregman divergence of :math:`F` without the terms that depend on the target alone, so it may be
    negative. Targets outside the range of :math:`f` are allowed; the loss then has no minimum. :math:`F` is log cosh
    for tanh, softplus for sigmoid and log-sum-exp for softmax; identity gives the squared loss.

    Args:
        pre_activation: :math:`a`, floating, any shape; softmax normalizes over the last axis.
        target: :math:`t`, the target of the activation, floating, of the same shape.
        transfer: 'identity', 'tanh', 'sigmoid', 'softmax', 'relu' or 'leaky_relu' (slope 0.01).

    Returns:
        A scalar, the sum over all entries; float32, or float64 if an argument is.

    Raises:
        TypeError: a dtype is not floating.
        ValueError: the shapes differ, or `transfer` is unknown.

    Source: Amid, Anil, Warmuth, LocoProp (AISTATS 2022, arXiv 2106.06199).

    >>> import jax
    >>> a, t = jax.numpy.array([0.0, 2.0]), jax.numpy.array([0.5, 0.5])
    >>> print(jax.grad(matching_loss)(a, t, "relu"))
    [-0.5  1.5]
    """
    arrays = {"pre_activation": jnp.asarray(pre_activation), "target": jnp.asarray(target)}
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating-point; got dtype {array.dtype}")
    a, t = arrays.values()
    if a.shape != t.shape:
        raise ValueError(f"target must have the shape of pre_activation, {a.shape}; got shape {t.shape}")
    check_transfer("transfer", transfer)
    dtype = jnp.float64 if any(x.dtype == jnp.float64 for x in (a, t)) else jnp.float32
    a, t = a.astype(dtype), t.astype(dtype)
    return TRANSFERS[transfer].potential(a) - jnp.sum(t * a)


def check_transfer(name: str, transfer: str) -> None:
    """Raises ValueError if the transfer function that argument `name` states is unknown."""
    if transfer not in TRANSFERS:
        raise ValueError(f"{name} must be one of {', '.join(TRANSFERS)}; got {transfer!r}")
