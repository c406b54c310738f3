"""Optimizers and schedules of the official code."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

Optimizer = Callable[[ArrayLike], optax.GradientTransformation]

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam")


def create_optimizer(name: str, *, momentum: float = 0.999, decay: float = 0.9, epsilon: float = 1e-5) -> Optimizer:
    """An optimizer as TensorFlow 1 defines it, as a function of its learning rate.

    Args:
        name: one of `OPTIMIZERS`.
        momentum: momentum of momentum, nesterov and rmsprop; decay of adam's first moment.
        decay: decay of the second moment of rmsprop and adam.
        epsilon: added inside rmsprop's root and outside adam's; initial sum of squares of adagrad.

    Returns:
        A function of a learning rate that returns an optax transformation.

    Raises:
        ValueError: `name` is unknown.

    Source: google-research/google-research, `locoprop/locoprop_training.ipynb`. TensorFlow's Adam adds epsilon before
        it corrects the bias of the second moment, optax after; the two differ in the first few dozen steps.
    """
    optimizers: dict[str, Optimizer] = {
        "sgd": optax.sgd,
        "momentum": lambda rate: optax.sgd(rate, momentum),
        "nesterov": lambda rate: optax.sgd(rate, momentum, nesterov=True),
        "adagrad": lambda rate: optax.adagrad(rate, initial_accumulator_value=epsilon, eps=0.0),
        "rmsprop": lambda rate: optax.rmsprop(
            rate, decay=decay, eps=epsilon, initial_scale=1.0, eps_in_sqrt=True, momentum=momentum
        ),
        "adam": lambda rate: optax.adam(rate, b1=momentum, b2=decay, eps=epsilon),
    }
    if name not in optimizers:
        raise ValueError(f"name must be one of {', '.join(OPTIMIZERS)}; got {name!r}")
    return optimizers[name]


def official_optimizer(learning_rate: ArrayLike) -> optax.GradientTransformation:
    r"""RMSProp as TensorFlow 1 defines it, with the learning rate inside the momentum; the official code's default.

    .. math:: s \leftarrow 0.9 s + 0.1 g^2, \quad
        m \leftarrow 0.999 m + \eta \frac{g}{\sqrt{s + 10^{-5}}}, \quad W \leftarrow W - m

    where :math:`s` starts at 1.

    Source: see `create_optimizer`.
    """
    return create_optimizer("rmsprop")(learning_rate)


def official_learning_rate(
    steps_per_epoch: int, *, peak: float = 1e-5, epochs: int = 100, warmup_epochs: int = 5
) -> Callable[[ArrayLike], jax.Array]:
    r"""The learning rate by global step: linear warmup and linear decay, both in steps of one epoch.

    .. math:: \eta_e = \eta_{\max} \frac{e}{w} \quad (e < w), \qquad
        \eta_e = \eta_{\max} \Big( 1 - \frac{e + 1 - w}{E - w} \Big) \quad (e \geq w)

    in epoch :math:`e`, counted from 0, with :math:`w` warmup epochs of :math:`E` in all. The first and the last epoch
    have a learning rate of 0; the official run omits the last.

    Args:
        steps_per_epoch: minibatches per epoch.
        peak: the largest learning rate.
        epochs: epochs of the whole schedule.
        warmup_epochs: epochs of the warmup.

    Returns:
        A function of the global step.

    Source: see `create_optimizer`.
    """

    def learning_rate(step: ArrayLike) -> jax.Array:
        epoch = jnp.asarray(step) // steps_per_epoch
        down = (epochs - 1 - epoch) / (epochs - warmup_epochs)  # 1 - (e + 1 - warmup) / (epochs - warmup)
        return peak * jnp.where(epoch < warmup_epochs, epoch / warmup_epochs, jnp.maximum(down, 0))

    return learning_rate


def linear_to_quarter(step: int, local_steps: int) -> float:
    """The factor of the learning rate in a local step, counted from 0: linear decay from 1, at least 1/4.

    >>> [linear_to_quarter(t, 10) for t in (0, 5, 9)]
    [1.0, 0.5, 0.25]
    """
    return max(1 - step / local_steps, 0.25)
