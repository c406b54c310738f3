"""The defaults of the official code: its optimiser and its two schedules."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def official_optimizer(learning_rate: ArrayLike) -> optax.GradientTransformation:
    """RMSProp as TensorFlow 1 has it, with the learning rate inside of the momentum.

    `ms = .9 ms + .1 g^2`, from ones; `mom = .999 mom + learning_rate g / sqrt(ms + 1e-5)`; `W -= mom`.

    Source: google-research/google-research, `locoprop/locoprop_training.ipynb`.
    """
    return optax.rmsprop(learning_rate, decay=0.9, eps=1e-5, initial_scale=1.0, eps_in_sqrt=True, momentum=0.999)


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
