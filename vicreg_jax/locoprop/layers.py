"""Inputs and pre-activations of a network's linear layers, captured without a change to the network."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

# Affine in their parameters: pre-activation = X W + b, where the rows of X are patches for a convolution.
LINEAR = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.ConvTranspose)


class Call(NamedTuple):
    """One call of a linear layer."""

    name: str
    module: nn.Module
    inputs: Array
    pre_activation: Array


def apply_with_calls(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: Any,
    keywords: Mapping[str, Any],
    perturbations: Mapping[str, Array],
) -> tuple[Any, dict[str, Any], list[Call]]:
    """Applies the model and records the calls of its linear layers.

    A call is recorded only if the layer multiplies by the stored parameter itself. Inside `nn.remat`, `nn.scan`,
    `nn.vmap`, `nn.jit` and `nn.WeightNorm` it does not.

    Args:
        model: called as `model.apply(variables, inputs, **keywords)`.
        variables: all collections of the model.
        inputs: a batch of inputs.
        keywords: further keyword arguments of the model.
        perturbations: arrays by layer name, added to that layer's pre-activations. The loss's gradient with respect to
            a perturbation of zero is its gradient with respect to the pre-activations.

    Returns:
        The outputs, the updated collections, and the recorded calls in order.
    """
    calls: list[Call] = []

    def record(call: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        output = call(*args, **kwargs)
        module = context.module
        if type(module) not in LINEAR or context.method_name != "__call__" or not _uses_stored(module, variables):
            return output
        name = "/".join(module.path)
        if name in perturbations:
            output = output + perturbations[name]
        layer_inputs = args[0] if args else kwargs["inputs"]
        calls.append(Call(name, module.clone(parent=None, name=None), layer_inputs, output))
        return output

    state = [collection for collection in variables if collection != "params"]
    with nn.intercept_methods(record):
        outputs, updated = model.apply(variables, inputs, mutable=state, **keywords)
    return outputs, dict(updated), calls


def _uses_stored(module: nn.Module, variables: Mapping[str, Any]) -> bool:
    """Whether the parameters of a bound layer are the arrays in `variables`, not functions of them."""
    stored: Any = variables["params"]
    for part in module.path:
        if part not in stored or "/" in part:
            return False
        stored = stored[part]
    held, stored = jax.tree.leaves(module.variables["params"]), jax.tree.leaves(stored)
    return len(held) == len(stored) and all(a is b for a, b in zip(held, stored, strict=True))


def has_rows(module: nn.Module) -> bool:
    """Whether a layer multiplies rows by one matrix: `nn.Dense`, or `nn.Conv` with one feature group."""
    if type(module) is nn.Dense:
        return module.dot_general is None and module.dot_general_cls is None
    if type(module) is nn.Conv:
        custom = module.mask is not None or module.conv_general_dilated or module.conv_general_dilated_cls
        return module.feature_group_count == 1 and not custom
    return False


def as_rows(module: nn.Module, inputs: Array) -> Array:
    """The rows X of a layer that `has_rows`, `[rows, in]`: a convolution's patches, flattened in its kernel's order."""
    if type(module) is nn.Conv:
        inputs = _patches(module, inputs)
    return inputs.reshape(-1, inputs.shape[-1])


def _patches(module: nn.Conv, inputs: Array) -> Array:
    """Extracts patches by the layer itself with an identity kernel, which keeps its strides, padding and dilation."""
    size = (module.kernel_size,) if isinstance(module.kernel_size, int) else tuple(module.kernel_size)
    channels = inputs.shape[-1]
    positions = math.prod(size)
    kernel = jnp.tile(jnp.eye(positions, dtype=inputs.dtype).reshape(*size, 1, positions), channels)
    extractor = module.clone(
        features=channels * positions,
        feature_group_count=channels,
        use_bias=False,
        dtype=inputs.dtype,
        precision="highest",
    )
    patches: Any = extractor.apply({"params": {"kernel": kernel}}, inputs)
    patches = patches.reshape(*patches.shape[:-1], channels, positions)
    return jnp.swapaxes(patches, -1, -2).reshape(*patches.shape[:-2], positions * channels)
