"""A network on a large batch, some rows at a time: the gradient of the whole batch with the memory of a part."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_microbatches(apply: Callable[[Any, Any], Any], variables: Any, inputs: Any, count: int) -> Any:
    """`apply(variables, inputs)`, computed for `count` equal parts of the rows, one after the other.

    What the backward pass needs of a part is computed again when its turn comes, so there are the activations of one
    part at a time. The loss is of the outputs of all rows, and autodiff takes its gradient by them back through the
    parts: the gradient is that of the whole batch (GradCache, Gao et al. 2021, arXiv 2101.06983) for a network whose
    rows do not depend on each other. With BatchNorm a row sees the statistics of its own part.

    Args:
      apply: `(variables, inputs) -> (outputs, updated)`; outputs by row, updated running statistics.
      variables: what it takes first.
      inputs: arrays `[batch, ...]`, whose batch `count` divides.
      count: how many parts. Part i has the rows i, i + count, i + 2 count ...: as many of every device's rows.

    Returns:
      Outputs of all rows, in their order; and the mean of the parts' updated statistics, so that these move as fast
      as they would with one part.
    """

    def split(array: jax.Array) -> jax.Array:
        return jnp.moveaxis(array.reshape(-1, count, *array.shape[1:]), 1, 0)

    def join(parts: jax.Array) -> jax.Array:
        return jnp.moveaxis(parts, 0, 1).reshape(-1, *parts.shape[2:])

    def of_part(carry: None, part: Any) -> tuple[None, Any]:
        return carry, jax.checkpoint(apply)(variables, part)

    _, (outputs, updated) = jax.lax.scan(of_part, None, jax.tree.map(split, inputs))
    return jax.tree.map(join, outputs), jax.tree.map(lambda parts: jnp.mean(parts, axis=0), updated)
