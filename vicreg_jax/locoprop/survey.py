"""The layers of a network that have a local loss, and how each is going to be minimized."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from vicreg_jax.locoprop.layers import apply_with_calls, has_rows
from vicreg_jax.locoprop.local import LocalFlops, local_flops
from vicreg_jax.locoprop.matching import check_transfer
from vicreg_jax.locoprop.transfers import find_transfer

# Where the parameters that are in no such layer stand beside the layers.
OTHERS = "(others)"

Groups = dict[str, dict[str, Any]]


class Layer(NamedTuple):
    """A layer that has a local loss.

    Attributes:
      name: its path, `encoder/Dense_0`.
      module: the layer, unbound.
      pre_activation: shape and dtype.
      transfer: the transfer function of its loss; 'identity': the squared loss.
      form: 'gram' where its local steps do not go through the batch, else 'plain'.
      flops: what both cost; None where there is no Gram form.
    """

    name: str
    module: nn.Module
    pre_activation: jax.ShapeDtypeStruct
    transfer: str
    form: str
    flops: LocalFlops | None


def survey(
    model: nn.Module,
    variables: Any,
    inputs: Any,
    *,
    options: Mapping[str, Any],
    variant: str,
    transfers: Mapping[str, str],
    output_transfer: str,
    local_steps: int,
    form: str,
) -> list[Layer]:
    """The linear layers that are called once; nothing is computed but what random numbers become.

    Raises:
      ValueError: if there is none, if `transfers` names another, or if a transfer function is not found.
    """
    found: list[tuple[str, nn.Module]] = []

    def network(variables: Any, inputs: Any) -> Any:
        outputs, _, calls = apply_with_calls(model, variables, inputs, options, {})
        found.extend((call.name, call.module) for call in calls)
        return outputs, [call.pre_activation for call in calls]

    traced, (outputs, shapes) = jax.make_jaxpr(network, return_shape=True)(variables, inputs)
    results = traced.jaxpr.outvars
    outputs, pre_activations = results[: -len(shapes) or None], results[len(results) - len(shapes) :]
    names = [name for name, _ in found]
    once = [index for index, name in enumerate(names) if names.count(name) == 1]
    if not once:
        raise ValueError("model must have nn.Dense or nn.Conv layers that are called once; got none")
    if unknown := set(transfers) - {names[index] for index in once}:
        raise ValueError(
            f"transfers must name layers among {', '.join(names[index] for index in once)}; got {', '.join(unknown)}"
        )

    layers, lost, given_out = [], [], False
    for index in once:
        name, module = found[index]
        transfer = transfers.get(name, "identity") if variant == "m" else "identity"
        if variant == "m" and name not in transfers:
            known, last = find_transfer(traced, pre_activations[index], outputs)
            if known is None:
                lost.append(name)
            elif known == "identity" and last:
                transfer, given_out = output_transfer, True
            else:
                transfer = known
        parameters = split(variables["params"], [name])[name]
        flops = None
        if transfer == "identity" and has_rows(module):
            width = parameters["kernel"].shape[-1]
            columns = parameters["kernel"].size // width + ("bias" in parameters)
            flops = local_flops(shapes[index].size // width, columns, width, local_steps)
        gram = flops is not None and (form == "gram" or (form == "auto" and flops.gram < flops.plain))
        layers.append(Layer(name, module, shapes[index], transfer, "gram" if gram else "plain", flops))
    if lost:
        stated = ", ".join(f"{name!r}: 'identity'" for name in lost)
        raise ValueError(
            f"transfers must state what follows {', '.join(lost)}: no known transfer function was found there; for "
            f"the squared loss in these layers give transfers={{{stated}}}"
        )
    if output_transfer != "identity" and variant == "m" and not given_out:
        raise ValueError(
            f"output_transfer must be 'identity': no layer's pre-activation is an output of the model; "
            f"got {output_transfer!r}"
        )
    return layers


def check_transfers(transfers: Mapping[str, str], output_transfer: str) -> None:
    """Raise ValueError where a stated transfer function is none of those known."""
    for name, transfer in transfers.items():
        check_transfer(f"transfers[{name!r}]", transfer)
    check_transfer("output_transfer", output_transfer)


def split(params: Any, layers: Iterable[str]) -> Groups:
    """A network's parameters by layer, and all that are in none of these, as they are nested, under `OTHERS`."""
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
    """What `split` took apart."""
    flat: dict[tuple[str, ...], Any] = {}
    for name, group in groups.items():
        path = () if name in ("", OTHERS) else tuple(name.split("/"))
        flat |= {(*path, *inner): leaf for inner, leaf in flatten_dict(group).items()}
    return unflatten_dict(flat)
