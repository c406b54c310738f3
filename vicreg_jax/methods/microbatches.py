"""Gradients of a large batch with the activation memory of a micro-batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_microbatches(apply: Callable[[Any, Any], Any], variables: Any, inputs: Any, count: int) -> Any:
    """Compute `apply(variables, inputs)` in micro-batches of equal size, one after the other.

    The backward pass recomputes each micro-batch, so only one micro-batch's activations are in memory at a time. The
    loss sees the outputs of all rows, and autodiff carries its gradient back through every micro-batch. For a network
    whose rows do not depend on each other, the gradient is that of the whole batch (GradCache, Gao et al. 2021, arXiv
    2101.06983). With BatchNorm, a row sees the statistics of its micro-batch.

    Args:
        apply: `(variables, inputs) -> (outputs, updated)`: one output per row, and updated running statistics.
        variables: First argument of `apply`.
        inputs: Arrays `[batch, ...]`, with a batch divisible by `count`.
        count: Number of micro-batches. Micro-batch i has the rows i, i + count, i + 2 count, ..., so that each takes
            the same number of rows from every device.

    Returns:
        The outputs of all rows, in their order, and the mean of the updated statistics over the micro-batches, so that
        running statistics move as fast as with a single one.
    """

    def split(array: jax.Array) -> jax.Array:
        return jnp.moveaxis(array.reshape(-1, count, *array.shape[1:]), 1, 0)

    def join(parts: jax.Array) -> jax.Array:
        return jnp.moveaxis(parts, 0, 1).reshape(-1, *parts.shape[2:])

    def apply_to_part(carry: None, part: Any) -> tuple[None, Any]:
        return carry, jax.checkpoint(apply)(variables, part)

    _, (outputs, updated) = jax.lax.scan(apply_to_part, None, jax.tree.map(split, inputs))
    return jax.tree.map(join, outputs), jax.tree.map(lambda parts: jnp.mean(parts, axis=0), updated)
