"""The gradient of a layer's local loss, with its inputs and its target frozen."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vicreg_jax.locoprop.layers import as_rows
from vicreg_jax.locoprop.matching import TRANSFERS

Parameters = dict[str, Any]
Gradient = Callable[[Parameters], Parameters]


class LocalFlops(NamedTuple):
    """Multiplications and additions of a layer's local steps in one minibatch.

    Attributes:
      plain: every step goes through the batch.
      gram: `X^T X` is made once, and no step goes through the batch.
    """

    plain: int
    gram: int


def local_flops(rows: int, inputs: int, outputs: int, local_steps: int) -> LocalFlops:
    """What the two forms of a layer's local steps cost, in products of matrices.

    Args:
      rows: of X: the batch; for a convolution times its places.
      inputs: columns of X, the bias's column of ones included.
      outputs: columns of the kernel.
      local_steps: how many.

    >>> local_flops(1000, 784, 1000, 10)
    LocalFlops(plain=31360000000, gram=15090432000)
    """
    plain = local_steps * 2 * (2 * rows * inputs * outputs)
    return LocalFlops(plain, 2 * rows * inputs**2 + 2 * rows * inputs * outputs + local_steps * 2 * inputs**2 * outputs)


def plain_gradient(module: nn.Module, transfer: str, inputs: Array, pre_activation: Array, move: Array) -> Gradient:
    """`X^T (f(X W + b) - t)` and its sum over rows as a function of W and b, through the layer itself.

    Args:
      module: affine in its parameters.
      transfer: f: identity for the squared loss.
      inputs: X.
      pre_activation: `X W + b` at the start.
      move: `f(X W + b) - t` at the start, in float32 at least: activation rate times the loss's gradient.
    """
    function = TRANSFERS[transfer].function
    activation = function(pre_activation.astype(move.dtype))

    def gradient(parameters: Parameters) -> Parameters:
        def layer(own: Parameters) -> Any:
            return module.apply({"params": own}, inputs)

        output, pull_back = jax.vjp(layer, parameters)
        # Not f - t: the difference is exactly the move at the start, where the target would round it.
        missed = function(output.astype(move.dtype)) - activation + move
        return pull_back(missed.astype(output.dtype))[0]

    return gradient


def gram_gradient(module: nn.Module, inputs: Array, move: Array, parameters: Parameters) -> Gradient:
    """The same for the squared loss, `X^T X (W' - W) + X^T move`, with both products over the batch made once.

    Args:
      module: one with `has_rows`.
      inputs, move: as in `plain_gradient`.
      parameters: W and b at the start.
    """
    precision = module.precision
    rows = as_rows(module, inputs).astype(move.dtype)
    if "bias" in parameters:
        rows = jnp.concatenate([rows, jnp.ones((len(rows), 1), rows.dtype)], axis=1)
    gram = jnp.matmul(rows.T, rows, precision=precision)
    first = jnp.matmul(rows.T, move.reshape(len(rows), -1), precision=precision)

    def as_matrix(of: Parameters) -> Array:
        kernel = of["kernel"].reshape(-1, first.shape[1])
        return jnp.concatenate([kernel, of["bias"][None]]) if "bias" in of else kernel

    start = as_matrix(parameters)

    def gradient(of: Parameters) -> Parameters:
        matrix = jnp.matmul(gram, (as_matrix(of) - start).astype(gram.dtype), precision=precision) + first
        kernel = matrix[:-1] if "bias" in of else matrix
        parts = {"kernel": kernel.reshape(of["kernel"].shape)} | ({"bias": matrix[-1]} if "bias" in of else {})
        return {name: part.astype(of[name].dtype) for name, part in parts.items()}

    return gradient
