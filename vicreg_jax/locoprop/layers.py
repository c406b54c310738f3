"""What a network's linear layers took in and gave out, without a change to the network."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

# Affine in their own parameters: pre-activation = X W + b, over patches for convolutions.
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
    options: Mapping[str, Any],
    perturbations: Mapping[str, Array],
) -> tuple[Any, dict[str, Any], list[Call]]:
    """The network's outputs, its updated state, and the calls of its linear layers, in their order.

    A layer counts where what it multiplies by is the parameter itself: not inside of `nn.remat`, `nn.scan`, `nn.vmap`,
    `nn.jit` or `nn.WeightNorm`, which hand it something else.

    Args:
      model, variables, inputs, options: `model.apply(variables, inputs, **options)`.
      perturbations: by layer's name, added to its pre-activation: the loss's gradient by them, at zero, is that by the
        pre-activation.
    """
    calls: list[Call] = []

    def watch(call: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        output = call(*args, **kwargs)
        module = context.module
        if type(module) not in LINEAR or context.method_name != "__call__" or not _has_its_own(module, variables):
            return output
        name = "/".join(module.path)
        if name in perturbations:
            output = output + perturbations[name]
        taken = args[0] if args else kwargs["inputs"]
        calls.append(Call(name, module.clone(parent=None, name=None), taken, output))
        return output

    state = [collection for collection in variables if collection != "params"]
    with nn.intercept_methods(watch):
        outputs, updated = model.apply(variables, inputs, mutable=state, **options)
    return outputs, dict(updated), calls


def _has_its_own(module: nn.Module, variables: Mapping[str, Any]) -> bool:
    stored: Any = variables["params"]
    for part in module.path:
        if part not in stored or "/" in part:
            return False
        stored = stored[part]
    held, stored = jax.tree.leaves(module.variables["params"]), jax.tree.leaves(stored)
    return len(held) == len(stored) and all(a is b for a, b in zip(held, stored, strict=True))


def has_rows(module: nn.Module) -> bool:
    """Whether a layer is a product of rows with one matrix: `nn.Dense`, `nn.Conv` in one group."""
    if type(module) is nn.Dense:
        return module.dot_general is None and module.dot_general_cls is None
    if type(module) is nn.Conv:
        custom = module.mask is not None or module.conv_general_dilated or module.conv_general_dilated_cls
        return module.feature_group_count == 1 and not custom
    return False


def as_rows(module: nn.Module, inputs: Array) -> Array:
    """The rows X of such a layer, `[batch times places, in]`: for a convolution its patches, in the kernel's order."""
    if type(module) is nn.Conv:
        inputs = _patches(module, inputs)
    return inputs.reshape(-1, inputs.shape[-1])


def _patches(module: nn.Conv, inputs: Array) -> Array:
    """The layer itself, with a kernel that copies: strides, padding and dilation are the layer's own."""
    size = (module.kernel_size,) if isinstance(module.kernel_size, int) else tuple(module.kernel_size)
    channels = inputs.shape[-1]
    places = 1
    for side in size:
        places *= side
    kernel = jnp.tile(jnp.eye(places, dtype=inputs.dtype).reshape(*size, 1, places), channels)
    copier = module.clone(
        features=channels * places,
        feature_group_count=channels,
        use_bias=False,
        dtype=inputs.dtype,
        precision="highest",
    )
    copied: Any = copier.apply({"params": {"kernel": kernel}}, inputs)
    copied = copied.reshape(*copied.shape[:-1], channels, places)
    return jnp.swapaxes(copied, -1, -2).reshape(*copied.shape[:-2], places * channels)
