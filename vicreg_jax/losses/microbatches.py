"""Value and gradient of a large batch with the activation memory of a micro-batch (GradCache, arXiv 2101.06983)."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp


def in_microbatches(
    apply: Callable[[Any, Any], Any], params: Any, inputs: Any, count: int, *, has_aux: bool = False
) -> Any:
    r"""Compute `apply(params, inputs)` in micro-batches of equal size, one after the other.

    .. math:: \text{outputs}_{j \cdot \text{count} + i} = \text{apply}(\text{params}, \text{inputs}_{i::\text{count}})_j

    The loss sees the outputs of all rows, and autodiff carries its gradient back through one micro-batch at a time.
    The backward pass recomputes each micro-batch, so only one micro-batch's activations are in memory. If the rows of
    the network do not depend on each other, value and gradient are those of the whole batch, for any loss. With
    BatchNorm, a row sees the statistics of its micro-batch.

    Args:
        apply: the network, `(params, inputs) -> outputs`: arrays with one row per input row. With `has_aux` it returns
            `(outputs, aux)`. A PRNG key from outside is the same for every micro-batch; pass one key per row in
            `inputs` instead.
        params: a pytree, the first argument of `apply`.
        inputs: an array `[batch, ...]`, or a pytree of them with one batch size. It must be divisible by `count`.
        count: number of micro-batches. Micro-batch i has the rows i, i + count, i + 2 count, ..., so that each takes
            the same number of rows from every device. Static.
        has_aux: whether `apply` also returns running statistics, as in `jax.grad`. Static.

    Returns:
        The outputs of all rows, in their order: what `apply` returns, with `batch` rows. With `has_aux`, the pair
        `(outputs, aux)`, where `aux` is the mean over micro-batches: running statistics move as far as in one step on
        the whole batch.

    Raises:
        TypeError: if `has_aux` and `apply` does not return a pair.
        ValueError: if `count` is not a positive integer, `inputs` has no array, a shape is not `[batch, ...]`, the
            batch sizes differ or are not divisible by `count`, or `apply` does not return one row per input row.

    Source: Gao, Zhang, Han, Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    RepL4NLP 2021, section 3 (GradCache). There the caller passes the gradient from the loss to the micro-batches; here
    autodiff does.

    >>> from vicreg_jax.losses import barlow_twins_loss
    >>> def network(params, images):
    ...     return jnp.tanh(images @ params)
    >>> def objective(params, view_a, view_b):
    ...     z_a = in_microbatches(network, params, view_a, 4)
    ...     z_b = in_microbatches(network, params, view_b, 4)
    ...     return barlow_twins_loss(z_a, z_b).loss
    >>> views = jax.random.normal(jax.random.key(0), (2, 32, 5))
    >>> params = jax.random.normal(jax.random.key(1), (5, 8))
    >>> loss, gradient = jax.jit(jax.value_and_grad(objective))(params, *views)

    The textbook form, the same network applied to the whole batch at once:

    >>> def textbook(params, view_a, view_b):
    ...     return barlow_twins_loss(network(params, view_a), network(params, view_b)).loss
    >>> expected, expected_gradient = jax.jit(jax.value_and_grad(textbook))(params, *views)
    >>> bool(jnp.allclose(loss, expected, rtol=1e-5))
    True
    >>> bool(jnp.allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4))
    True
    """
    rows = _rows_of_a_part(inputs, count)

    def split(array: Any) -> jax.Array:
        array = jnp.asarray(array)
        return jnp.moveaxis(array.reshape(rows, count, *array.shape[1:]), 1, 0)

    def join(parts: jax.Array) -> jax.Array:
        return jnp.moveaxis(parts, 0, 1).reshape(rows * count, *parts.shape[2:])

    def apply_to_part(carry: None, part: Any) -> tuple[None, Any]:
        result = jax.checkpoint(apply)(params, part)
        _check_result(result, rows, has_aux)
        return carry, result

    _, results = jax.lax.scan(apply_to_part, None, jax.tree.map(split, inputs))
    if not has_aux:
        return jax.tree.map(join, results)
    outputs, aux = results
    return jax.tree.map(join, outputs), jax.tree.map(lambda parts: jnp.mean(parts, axis=0), aux)


def _rows_of_a_part(inputs: Any, count: int) -> int:
    """Return the rows of a micro-batch; raise ValueError if `inputs` cannot be split into `count` of them."""
    if not (isinstance(count, Integral) and count >= 1):
        raise ValueError(f"count must be a positive integer; got {count!r}")
    shapes = [jnp.shape(array) for array in jax.tree.leaves(inputs)]
    if not shapes:
        raise ValueError(f"inputs must have at least one array; got {inputs!r}")
    for shape in shapes:
        if not shape or shape[0] == 0:
            raise ValueError(f"inputs must have shape [batch, ...] with at least one row; got shape {shape}")
    batch = shapes[0][0]
    for shape in shapes:
        if shape[0] != batch:
            raise ValueError(f"inputs must have one batch size, {batch} as in the first array; got shape {shape}")
    if batch % count:
        raise ValueError(f"inputs must have a batch divisible by count, {count}; got {batch}")
    return batch // int(count)


def _check_result(result: Any, rows: int, has_aux: bool) -> None:
    if has_aux:
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"apply must return a pair (outputs, aux) with has_aux; got {type(result).__name__}")
        result, _ = result
    for array in jax.tree.leaves(result):
        shape = jnp.shape(array)
        if shape[:1] != (rows,):
            hint = "" if has_aux else "; pass has_aux=True if apply also returns running statistics"
            raise ValueError(f"apply must return one row per input row, [{rows}, ...]; got shape {shape}{hint}")
