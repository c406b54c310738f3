"""LocoProp (Amid, Anil, Warmuth, AISTATS 2022, arXiv 2106.06199): every layer learns from a local loss."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vicreg_jax.locoprop.layers import apply_with_calls
from vicreg_jax.locoprop.local import Gradient, gram_gradient, plain_gradient
from vicreg_jax.locoprop.official import linear_to_quarter, official_optimizer
from vicreg_jax.locoprop.survey import OTHERS, Layer, check_transfers, join, split, survey

Batch = tuple[Any, Any]


class LocoPropState(NamedTuple):
    """All that goes from one minibatch to the next, a pytree.

    Attributes:
      step: minibatches so far.
      params: of the model, as `model.apply` takes them.
      model_state: its other collections, such as running statistics.
      optimizer_state: of the inner optimizer, by layer; it is never reset.
    """

    step: Array
    params: Any
    model_state: Any
    optimizer_state: dict[str, Any]


class LocoProp(NamedTuple):
    """What `locoprop` returns.

    Attributes:
      init: `(key, batch) -> LocoPropState`.
      step: `(state, batch) -> (state, metrics)`, jitted; scalars by name: `loss` of before the step, `learning_rate`,
        and by layer `update_norm/encoder/Dense_0`, the length of its step: where that is not finite, the layer is the
        first to look at.
      layers: `batch -> list[Layer]`: the layers with a local loss. Computes nothing; shapes will do for the batch.
    """

    init: Callable[[Array, Batch], LocoPropState]
    step: Callable[[LocoPropState, Batch], tuple[LocoPropState, dict[str, Array]]]
    layers: Callable[[Batch], list[Layer]]


def locoprop(
    model: nn.Module,
    loss: Callable[[Any, Any], Array],
    *,
    variant: str = "m",
    activation_rate: float = 10.0,
    local_steps: int = 10,
    inner_optimizer: Callable[[Any], optax.GradientTransformation] = official_optimizer,
    learning_rate: float | Callable[[Array], Any] = 1e-5,
    inner_schedule: Callable[[int, int], float] = linear_to_quarter,
    transfers: Mapping[str, str] | None = None,
    output_transfer: str = "identity",
    call_options: Mapping[str, Any] | None = None,
    local_form: str = "auto",
    mesh: Mesh | None = None,
) -> LocoProp:
    r"""Trains a Flax model by local losses, of which it is not told.

    One forward and one backward pass give each layer's inputs X, pre-activations `a = X W + b` and `g`, the loss's
    gradient by a. Then, with all of these frozen, each layer takes `local_steps` steps of the inner optimizer on

    .. math:: \tfrac12 \|X W' + b' - t\|^2, \quad t = a - \gamma g \qquad \text{(s, squared)}
    .. math:: \sum F(X W' + b') - t \, (X W' + b'), \quad t = f(a) - \gamma g, \quad F' = f \qquad \text{(m, matching)}

    which are sums over the batch; g has the 1 / batch of the loss. The first local gradient is gamma times that of
    backpropagation.

    Layers with a local loss are `nn.Dense`, `nn.DenseGeneral`, `nn.Conv` and `nn.ConvTranspose` that are called once
    in a forward pass, not inside of `nn.remat`, `nn.scan`, `nn.vmap`, `nn.jit` or `nn.WeightNorm`. All other
    parameters are trained by backpropagation, as many steps along gamma times their gradient, which stays what it is;
    `init` warns of them by name.

    Which transfer function f follows a layer is found by values, see `vicreg_jax.locoprop.transfers`. What joins
    others first (a residual branch) has the identity; what enters anything else, such as gelu, normalization by the
    batch or max-pooling, must be stated.

    Args:
      model: called as `model.apply(variables, inputs, **call_options)`, without random numbers.
      loss: `(outputs, targets) -> scalar`, the mean over the batch.
      variant: 'm' or 's'.
      activation_rate: gamma.
      local_steps: for each minibatch.
      inner_optimizer: from a learning rate to an optax transformation, e.g. `optax.sgd`; called with that of each local
        step, so that it gets to where the optimizer has it, for RMSProp inside of the momentum.
      learning_rate: of the inner optimizer; a number, or a function of the minibatches so far.
      inner_schedule: `(local step from 0, local_steps) -> factor` of the learning rate.
      transfers: by layer's name, one of `TRANSFERS`, in place of what is found. 's' needs none, and ignores these.
      output_transfer: that of layers whose pre-activations are outputs of the model: what the loss makes of its logits,
        'sigmoid' for the sigmoid cross-entropy.
      call_options: further keyword arguments of the model, such as `{"train": True}`.
      local_form: how steps on a squared loss are computed: 'plain', through the batch; 'gram', from `X^T X` where there
        is such a form; 'auto', whichever has fewer FLOPs. The result is the same but for rounding.
      mesh: over whose devices the batch is split, with axes of type Auto; the state is on all of them.

    Returns:
      `LocoProp(init, step, layers)`.

    Raises:
      ValueError: for a value that an argument does not take; from `init`, `step` and `layers` also where no layer, or
        no transfer function, is found.
      TypeError: for an inner_optimizer that is no function of a learning rate.

    Source: google-research/google-research, `locoprop/locoprop_training.ipynb`, whose settings the defaults are, but
      for the sigmoid of its output and the schedule of its learning rate.

    >>> import jax, optax
    >>> rows = jax.random.uniform(jax.random.key(0), (32, 8))
    >>> train = locoprop(
    ...     nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(8)]),
    ...     lambda logits, rows: optax.sigmoid_binary_cross_entropy(logits, rows).sum(-1).mean(),
    ...     output_transfer="sigmoid",
    ... )
    >>> [(layer.name, layer.transfer) for layer in train.layers((rows, rows))]
    [('layers_0', 'tanh'), ('layers_2', 'sigmoid')]
    >>> state = train.init(jax.random.key(1), (rows, rows))
    >>> state, metrics = train.step(state, (rows, rows))
    """
    options, transfers = dict(call_options or {}), dict(transfers or {})
    _check(variant, activation_rate, local_steps, inner_optimizer, local_form, mesh)
    check_transfers(transfers, output_transfer)
    factors = [inner_schedule(index, local_steps) for index in range(local_steps)]

    def layers_of(variables: Any, inputs: Any) -> list[Layer]:
        return survey(
            model,
            *jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), (variables, inputs)),
            options=options,
            variant=variant,
            transfers=transfers,
            output_transfer=output_transfer,
            local_steps=local_steps,
            form=local_form,
        )

    def init(key: Array, batch: Batch) -> LocoPropState:
        inputs, _ = _pair(batch)
        variables = nn.unbox(model.init(key, inputs, **options))
        model_state = {name: values for name, values in variables.items() if name not in ("params", "intermediates")}
        layers = layers_of({"params": variables["params"], **model_state}, inputs)
        groups = split(variables["params"], [layer.name for layer in layers])
        if OTHERS in groups:
            names = ", ".join("/".join(path) for path in flatten_dict(groups[OTHERS]))
            warnings.warn(f"locoprop: trained by backpropagation: {names}", stacklevel=2)
        optimizer_state = {name: inner_optimizer(0.0).init(group) for name, group in groups.items()}
        return LocoPropState(jnp.zeros((), jnp.int32), variables["params"], model_state, optimizer_state)

    def step(state: LocoPropState, batch: Batch) -> tuple[LocoPropState, dict[str, Array]]:
        inputs, targets = _pair(batch)
        layers = layers_of({"params": state.params, **state.model_state}, inputs)
        groups = split(state.params, [layer.name for layer in layers])
        value, model_state, gradients = local_gradients(layers, groups, state.model_state, inputs, targets)
        rate = jnp.asarray(learning_rate(state.step) if callable(learning_rate) else learning_rate)

        def local_step(carry: tuple[Any, Any], factor: Array) -> tuple[tuple[Any, Any], None]:
            nearer, states = {}, {}
            for name, own in carry[0].items():
                optimizer = inner_optimizer((rate * factor).astype(jnp.result_type(*jax.tree.leaves(own))))
                updates, states[name] = optimizer.update(gradients[name](own), carry[1][name], own)
                nearer[name] = optax.apply_updates(own, updates)
            return (nearer, states), None

        (moved, optimizer_state), _ = jax.lax.scan(local_step, (groups, state.optimizer_state), jnp.asarray(factors))
        moves = {name: jax.tree.map(jnp.subtract, moved[name], group) for name, group in groups.items()}
        metrics = {"loss": value, "learning_rate": rate}
        metrics |= {f"update_norm/{name}": optax.tree.norm(move) for name, move in moves.items()}
        return LocoPropState(state.step + 1, join(moved), model_state, optimizer_state), metrics

    def local_gradients(
        layers: list[Layer], groups: Any, model_state: Any, inputs: Any, targets: Any
    ) -> tuple[Array, Any, dict[str, Gradient]]:
        """The loss, the model's new state, and of every group its local gradient as a function of the group."""

        def forward(perturbations: dict[str, Array], others: Any) -> tuple[Array, Any]:
            params = join(groups | {OTHERS: others})
            outputs, updated, calls = apply_with_calls(
                model, {"params": params, **model_state}, inputs, options, perturbations
            )
            value = loss(outputs, targets)
            if jnp.shape(value) != ():
                raise ValueError(f"loss must return a scalar, the mean over the batch; got shape {jnp.shape(value)}")
            taken = {call.name: (call.inputs, call.pre_activation) for call in calls if call.name in perturbations}
            return value, (updated, taken)

        others = groups.get(OTHERS, {})
        zeros = {layer.name: jnp.zeros(layer.pre_activation.shape, layer.pre_activation.dtype) for layer in layers}
        backward = jax.value_and_grad(forward, argnums=(0, 1), has_aux=True)
        (value, (updated, taken)), (by_pre_activation, by_others) = backward(zeros, others)

        gradients: dict[str, Gradient] = {
            OTHERS: lambda _: jax.tree.map(lambda gradient: activation_rate * gradient, by_others)
        }
        for layer in layers:
            into, pre_activation = taken[layer.name]
            gradient = by_pre_activation[layer.name]
            move = activation_rate * gradient.astype(jnp.result_type(gradient, jnp.float32))
            if layer.form == "gram":
                gradients[layer.name] = gram_gradient(layer.module, into, move, groups[layer.name])
            else:
                gradients[layer.name] = plain_gradient(layer.module, layer.transfer, into, pre_activation, move)
        return value, updated, gradients

    def layers(batch: Batch) -> list[Layer]:
        def initial(inputs: Any) -> Any:
            return nn.unbox(model.init(jax.random.key(0), inputs, **options)), inputs

        variables, inputs = jax.eval_shape(initial, _pair(batch)[0])
        return layers_of({name: values for name, values in variables.items() if name != "intermediates"}, inputs)

    if mesh is None:
        return LocoProp(jax.jit(init), jax.jit(step), layers)
    everywhere, split_batch = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return LocoProp(
        jax.jit(init, in_shardings=(everywhere, split_batch), out_shardings=everywhere),
        jax.jit(step, in_shardings=(everywhere, split_batch), out_shardings=everywhere),
        layers,
    )


def _pair(batch: Any) -> Batch:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"batch must be a pair (inputs, targets); got {type(batch).__name__}")
    return batch[0], batch[1]


def _check(
    variant: str, activation_rate: float, local_steps: int, inner_optimizer: Any, local_form: str, mesh: Mesh | None
) -> None:
    if variant not in ("m", "s"):
        raise ValueError(f"variant must be 'm' (matching) or 's' (squared); got {variant!r}")
    if not 0 < activation_rate < math.inf:
        raise ValueError(f"activation_rate must be positive and finite; got {activation_rate}")
    if not isinstance(local_steps, int) or local_steps < 1:
        raise ValueError(f"local_steps must be an integer of at least 1; got {local_steps!r}")
    if not callable(inner_optimizer):
        raise TypeError(
            "inner_optimizer must be a function from a learning rate to an optax transformation, such as optax.sgd; "
            f"got {type(inner_optimizer).__name__}"
        )
    if local_form not in ("auto", "plain", "gram"):
        raise ValueError(f"local_form must be 'auto', 'plain' or 'gram'; got {local_form!r}")
    if mesh is not None and any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(f"mesh must have axes of type Auto; got {mesh.axis_types}")
