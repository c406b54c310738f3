"""The layers of a network that have a local loss, and the form in which each one is minimized."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from vicreg_jax.locoprop.layers import apply_with_calls, has_rows
from vicreg_jax.locoprop.local import LocalFlops, local_flops
from vicreg_jax.locoprop.options import LocoPropOptions
from vicreg_jax.locoprop.transfers import find_transfer

# The group of all parameters outside the layers with a local loss.
OTHERS = "(others)"

Groups = dict[str, dict[str, Any]]


class Layer(NamedTuple):
    """A layer with a local loss.

    Attributes:
        name: path in the model, such as `encoder/Dense_0`.
        module: the unbound layer.
        pre_activation: shape and dtype of the pre-activations.
        transfer: transfer function of its local loss; 'identity' means the squared loss.
        form: 'gram' if its local steps use the Gram matrix, 'plain' if they go through the batch.
        flops: FLOPs of both forms; None if there is no Gram form.
    """

    name: str
    module: nn.Module
    pre_activation: jax.ShapeDtypeStruct
    transfer: str
    form: str
    flops: LocalFlops | None


def survey(
    model: nn.Module, variables: Any, inputs: Any, keywords: Mapping[str, Any], options: LocoPropOptions
) -> list[Layer]:
    """Lists the linear layers that the model calls once, in the order of their calls.

    The model is traced, not run; only random numbers pass through its candidate transfer functions.

    Args:
        model: called as `model.apply(variables, inputs, **keywords)`.
        variables: all collections of the model; shapes suffice.
        inputs: a batch of inputs; shapes suffice.
        keywords: further keyword arguments of the model.
        options: settings of the local losses.

    Raises:
        ValueError: there is no such layer, `transfers` names an unknown layer, a transfer function is not detected,
            or no layer has the stated `output_transfer`.
    """
    found: list[tuple[str, nn.Module]] = []

    def network(variables: Any, inputs: Any) -> Any:
        outputs, _, calls = apply_with_calls(model, variables, inputs, keywords, {})
        found.extend((call.name, call.module) for call in calls)
        return outputs, [call.pre_activation for call in calls]

    traced, (outputs, shapes) = jax.make_jaxpr(network, return_shape=True)(variables, inputs)
    results = traced.jaxpr.outvars
    outputs, pre_activations = results[: -len(shapes) or None], results[len(results) - len(shapes) :]
    names = [name for name, _ in found]
    once = [index for index, name in enumerate(names) if names.count(name) == 1]
    if not once:
        raise ValueError("model must have nn.Dense or nn.Conv layers that are called once; got none")
    if unknown := set(options.transfers) - {names[index] for index in once}:
        raise ValueError(
            f"transfers must name layers among {', '.join(names[index] for index in once)}; got {', '.join(unknown)}"
        )

    layers, undetected, has_output = [], [], False
    for index in once:
        name, module = found[index]
        transfer = options.transfers.get(name, "identity") if options.variant == "m" else "identity"
        if options.variant == "m" and name not in options.transfers:
            detected, is_output = find_transfer(traced, pre_activations[index], outputs)
            if detected is None:
                undetected.append(name)
            elif detected == "identity" and is_output:
                transfer, has_output = options.output_transfer, True
            else:
                transfer = detected
        parameters = split(variables["params"], [name])[name]
        flops = None
        if transfer == "identity" and has_rows(module):
            width = parameters["kernel"].shape[-1]
            columns = parameters["kernel"].size // width + ("bias" in parameters)
            flops = local_flops(shapes[index].size // width, columns, width, options.local_steps)
        form = options.local_form
        gram = flops is not None and (form == "gram" or (form == "auto" and flops.gram < flops.plain))
        layers.append(Layer(name, module, shapes[index], transfer, "gram" if gram else "plain", flops))
    if undetected:
        stated = ", ".join(f"{name!r}: 'identity'" for name in undetected)
        raise ValueError(
            f"transfers must state what follows {', '.join(undetected)}: no known transfer function was detected; for "
            f"the squared loss in these layers set transfers={{{stated}}}"
        )
    if options.output_transfer != "identity" and options.variant == "m" and not has_output:
        raise ValueError(
            "output_transfer must be 'identity' if no layer's pre-activation is an output of the model; "
            f"got {options.output_transfer!r}"
        )
    return layers


def split(params: Any, layers: Iterable[str]) -> Groups:
    """Groups a network's parameters by layer; all other parameters stay nested, in the group `OTHERS`."""
    groups: Groups = {name: {} for name in layers}
    others = {}
    for path, leaf in flatten_dict(params).items():
        owner = "/".join(path[:-1])
        if owner in groups:
            groups[owner][path[-1]] = leaf
        else:
            others[path] = leaf
    return groups | ({OTHERS: unflatten_dict(others)} if others else {})


def join(groups: Groups) -> Any:
    """The inverse of `split`."""
    flat: dict[tuple[str, ...], Any] = {}
    for name, group in groups.items():
        path = () if name in ("", OTHERS) else tuple(name.split("/"))
        flat |= {(*path, *inner): leaf for inner, leaf in flatten_dict(group).items()}
    return unflatten_dict(flat)
