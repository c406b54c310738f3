"""LocoProp's baseline: the same network, trained by backpropagation with one optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from vicreg_jax.locoprop.official import Optimizer

Batch = tuple[Any, Any]


class BackpropagationState(NamedTuple):
    """The training state, a pytree.

    Attributes:
        step: minibatches so far.
        params: parameters of the model.
        optimizer_state: state of the optimizer.
    """

    step: Array
    params: Any
    optimizer_state: Any


class Backpropagation(NamedTuple):
    """The functions that `backpropagation` returns.

    Attributes:
        init: `(key, batch) -> BackpropagationState`.
        step: `(state, batch) -> (state, metrics)`, jitted. The metrics are scalars: `loss` before the step,
            `learning_rate`, `gradient_norm` and `update_norm`.
    """

    init: Callable[[Array, Batch], BackpropagationState]
    step: Callable[[BackpropagationState, Batch], tuple[BackpropagationState, dict[str, Array]]]


def backpropagation(
    model: nn.Module,
    loss: Callable[[Any, Any], Array],
    *,
    optimizer: Optimizer,
    learning_rate: float | Callable[[Array], Any],
) -> Backpropagation:
    """Trains a Flax model without local losses, with the interface of `locoprop`.

    Args:
        model: a model without running statistics, called as `model.apply({"params": params}, inputs)`.
        loss: `(outputs, targets) -> scalar`, the mean over the batch.
        optimizer: function of a learning rate that returns an optax transformation.
        learning_rate: a number, or a function of the minibatches so far.

    Returns:
        `Backpropagation(init, step)`.
    """

    def init(key: Array, batch: Batch) -> BackpropagationState:
        params = model.init(key, batch[0])["params"]
        return BackpropagationState(jnp.zeros((), jnp.int32), params, optimizer(0.0).init(params))

    def step(state: BackpropagationState, batch: Batch) -> tuple[BackpropagationState, dict[str, Array]]:
        inputs, targets = batch

        def loss_of(params: Any) -> Array:
            return loss(model.apply({"params": params}, inputs), targets)

        value, gradient = jax.value_and_grad(loss_of)(state.params)
        rate = jnp.asarray(learning_rate(state.step) if callable(learning_rate) else learning_rate)
        updates, optimizer_state = optimizer(rate).update(gradient, state.optimizer_state, state.params)
        metrics = {
            "loss": value,
            "learning_rate": rate,
            "gradient_norm": optax.tree.norm(gradient),
            "update_norm": optax.tree.norm(updates),
        }
        return BackpropagationState(
            state.step + 1, optax.apply_updates(state.params, updates), optimizer_state
        ), metrics

    return Backpropagation(jax.jit(init), jax.jit(step))
