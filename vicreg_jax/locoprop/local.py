"""Gradients of a layer's local loss, with its inputs and its target frozen, in two forms; and their FLOPs."""

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
    r"""FLOPs of a layer's local steps in one minibatch.

    Attributes:
        plain: if every step goes through the batch.
        gram: if :math:`X^\top X` is computed once, and no step goes through the batch.
    """

    plain: int
    gram: int


def local_flops(rows: int, inputs: int, outputs: int, local_steps: int) -> LocalFlops:
    """FLOPs of the matrix products in a layer's local steps.

    Args:
        rows: rows of X: the batch size, times the output positions for a convolution.
        inputs: columns of X, including the column of ones for the bias.
        outputs: columns of the kernel.
        local_steps: local steps per minibatch.

    >>> local_flops(1000, 784, 1000, 10)
    LocalFlops(plain=31360000000, gram=15090432000)
    """
    plain = local_steps * 2 * (2 * rows * inputs * outputs)
    return LocalFlops(plain, 2 * rows * inputs**2 + 2 * rows * inputs * outputs + local_steps * 2 * inputs**2 * outputs)


def plain_gradient(module: nn.Module, transfer: str, inputs: Array, pre_activation: Array, shift: Array) -> Gradient:
    r"""The gradient of the matching loss as a function of the layer's parameters, through the layer itself.

    .. math:: \nabla_{W'} = X^\top (f(a') - t), \quad \nabla_{b'} = 1^\top (f(a') - t), \qquad a' = X W' + b'

    with the target :math:`t = f(a) - \gamma g`, computed as :math:`f(a') - t = (f(a') - f(a)) + \gamma g`.

    Args:
        module: a layer that is affine in its parameters.
        transfer: name of :math:`f`; 'identity' for the squared loss.
        inputs: inputs of the layer, X.
        pre_activation: :math:`a` at the first local step.
        shift: :math:`\gamma g`, in float32 at least.
    """
    function = TRANSFERS[transfer].function
    activation = function(pre_activation.astype(shift.dtype))

    def gradient(parameters: Parameters) -> Parameters:
        def layer(parameters: Parameters) -> Any:
            return module.apply({"params": parameters}, inputs)

        output, pullback = jax.vjp(layer, parameters)
        # At the first local step this is exactly the shift; f(a) - t would round it.
        residual = function(output.astype(shift.dtype)) - activation + shift
        return pullback(residual.astype(output.dtype))[0]

    return gradient


def gram_gradient(module: nn.Module, inputs: Array, shift: Array, parameters: Parameters) -> Gradient:
    r"""The gradient of the squared loss, from products over the batch that are computed once.

    The textbook form, `plain_gradient` with the identity, goes through the batch at every local step:

    .. math:: \nabla_{W'} = X^\top (X W' - t), \qquad t = X W - \gamma g

    With the Gram matrix :math:`X^\top X` no local step does:

    .. math:: \nabla_{W'} = X^\top X (W' - W) + \gamma X^\top g

    The bias is the last row of :math:`W`, and a column of ones in :math:`X`.

    Args:
        module: a layer that `has_rows`.
        inputs: inputs of the layer.
        shift: :math:`\gamma g`, in float32 at least.
        parameters: kernel and bias at the first local step.
    """
    precision = module.precision
    rows = as_rows(module, inputs).astype(shift.dtype)
    if "bias" in parameters:
        rows = jnp.concatenate([rows, jnp.ones((len(rows), 1), rows.dtype)], axis=1)
    gram = jnp.matmul(rows.T, rows, precision=precision)
    first = jnp.matmul(rows.T, shift.reshape(len(rows), -1), precision=precision)

    def as_matrix(parameters: Parameters) -> Array:
        kernel = parameters["kernel"].reshape(-1, first.shape[1])
        return jnp.concatenate([kernel, parameters["bias"][None]]) if "bias" in parameters else kernel

    start = as_matrix(parameters)

    def gradient(parameters: Parameters) -> Parameters:
        update = as_matrix(parameters) - start
        matrix = jnp.matmul(gram, update.astype(gram.dtype), precision=precision) + first
        kernel = matrix[:-1] if "bias" in parameters else matrix
        parts = {"kernel": kernel.reshape(parameters["kernel"].shape)}
        if "bias" in parameters:
            parts["bias"] = matrix[-1]
        return {name: part.astype(parameters[name].dtype) for name, part in parts.items()}

    return gradient
