"""What the official code optimizes with: its optimizers, the default among them, and its two schedules."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

Optimizer = Callable[[ArrayLike], optax.GradientTransformation]

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam")


def create_optimizer(name: str, *, momentum: float = 0.999, decay: float = 0.9, epsilon: float = 1e-5) -> Optimizer:
    """One of the optimizers as TensorFlow 1 has them, as a function of its learning rate.

    Args:
      name: one of `OPTIMIZERS`.
      momentum: of momentum, nesterov and rmsprop; of adam the decay of the first moment.
      decay: of the second moment, of rmsprop and adam.
      epsilon: inside of rmsprop's root and beside adam's; what adagrad's sums of squares begin with.

    Raises:
      ValueError: for another name.

    Source: google-research/google-research, `locoprop/locoprop_training.ipynb`. TensorFlow's Adam adds epsilon before
      the bias of the second moment is corrected, optax after: a difference of the first few dozen steps.
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
    """RMSProp as TensorFlow 1 has it, with the learning rate inside of the momentum: the default of the official code.

    `ms = .9 ms + .1 g^2`, from ones; `mom = .999 mom + learning_rate g / sqrt(ms + 1e-5)`; `W -= mom`.

    Source: as above.
    """
    return create_optimizer("rmsprop")(learning_rate)


def official_learning_rate(
    steps_per_epoch: int, *, peak: float = 1e-5, epochs: int = 100, warmup_epochs: int = 5
) -> Callable[[ArrayLike], jax.Array]:
    """The learning rate by global step: up in steps of one epoch from 0, at which the first epoch trains, then down.

    In epoch e, counted from 0: `peak e / warmup_epochs`, from e = warmup_epochs on
    `peak (1 - (e + 1 - warmup_epochs) / (epochs - warmup_epochs))`. The last epoch would have 0 again; the official
    run leaves it out.

    Source: as above.
    """

    def learning_rate(step: ArrayLike) -> jax.Array:
        epoch = jnp.asarray(step) // steps_per_epoch
        down = (epochs - 1 - epoch) / (epochs - warmup_epochs)  # 1 - (e + 1 - warmup) / (epochs - warmup)
        return peak * jnp.where(epoch < warmup_epochs, epoch / warmup_epochs, jnp.maximum(down, 0))

    return learning_rate


def linear_to_quarter(step: int, local_steps: int) -> float:
    """The factor of the learning rate in local step 0, 1, ...: from 1 in a line, not below 1/4.

    >>> [linear_to_quarter(t, 10) for t in (0, 5, 9)]
    [1.0, 0.5, 0.25]
    """
    return max(1 - step / local_steps, 0.25)
