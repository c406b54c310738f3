"""The training step of LocoProp: every layer learns from a local loss."""

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
from vicreg_jax.locoprop.official import Optimizer, linear_to_quarter, official_optimizer
from vicreg_jax.locoprop.options import LocoPropOptions
from vicreg_jax.locoprop.survey import OTHERS, Layer, join, split, survey

Batch = tuple[Any, Any]

_DEFAULTS = LocoPropOptions()


class LocoPropState(NamedTuple):
    """The training state, a pytree.

    Attributes:
        step: minibatches so far.
        params: parameters of the model, as `model.apply` expects them.
        model_state: the model's other collections, such as running statistics.
        optimizer_state: state of the inner optimizer by layer; it is never reset.
    """

    step: Array
    params: Any
    model_state: Any
    optimizer_state: dict[str, Any]


class LocoProp(NamedTuple):
    """The functions that `locoprop` returns.

    Attributes:
        init: `(key, batch) -> LocoPropState`.
        step: `(state, batch) -> (state, metrics)`, jitted. The metrics are scalars: `loss` before the step,
            `learning_rate`, and for each layer the norm of its update, such as `update_norm/encoder/Dense_0`, which
            shows the layer where non-finite values begin.
        layers: `batch -> list[Layer]`, the layers with a local loss. It computes nothing; the batch may consist of
            `jax.ShapeDtypeStruct`.
    """

    init: Callable[[Array, Batch], LocoPropState]
    step: Callable[[LocoPropState, Batch], tuple[LocoPropState, dict[str, Array]]]
    layers: Callable[[Batch], list[Layer]]


def locoprop(
    model: nn.Module,
    loss: Callable[[Any, Any], Array],
    options: LocoPropOptions = _DEFAULTS,
    *,
    inner_optimizer: Optimizer = official_optimizer,
    learning_rate: float | Callable[[Array], Any] = 1e-5,
    inner_schedule: Callable[[int, int], float] = linear_to_quarter,
    call_options: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
) -> LocoProp:
    r"""Trains an unmodified Flax model by local losses.

    One forward and one backward pass give each layer's inputs :math:`X`, its pre-activations :math:`a = X W + b` and
    the loss's gradient :math:`g` with respect to :math:`a`. With all of these frozen, each layer takes `local_steps`
    steps of the inner optimizer on its local loss, the squared one (variant 's') or the matching one (variant 'm'):

    .. math:: \tfrac12 \|X W' + b' - t\|^2, \quad t = a - \gamma g \qquad \text{(s)}
    .. math:: \sum F(X W' + b') - t \, (X W' + b'), \quad t = f(a) - \gamma g, \quad F' = f \qquad \text{(m)}

    Local losses are sums over the batch; :math:`g` has the factor 1 / batch of the loss. The gradient of the first
    local step is :math:`\gamma` times the gradient of backpropagation.

    A layer has a local loss if it is an `nn.Dense`, `nn.DenseGeneral`, `nn.Conv` or `nn.ConvTranspose` that is called
    once per forward pass, outside `nn.remat`, `nn.scan`, `nn.vmap`, `nn.jit` and `nn.WeightNorm`. Backpropagation
    trains all other parameters: they take as many steps along :math:`\gamma` times their gradient, which is computed
    once. `init` warns of these by name.

    The transfer function :math:`f` after each layer is detected by value, see `vicreg_jax.locoprop.transfers`. A
    pre-activation that joins another array first, as in a residual branch, has the identity. If it enters another
    operation, such as gelu, batch normalization or max pooling, `options.transfers` must state the function.

    Args:
        model: called as `model.apply(variables, inputs, **call_options)`, without random numbers.
        loss: `(outputs, targets) -> scalar`, the mean over the batch.
        options: settings of the local losses.
        inner_optimizer: function of a learning rate that returns an optax transformation, such as `optax.sgd`. It is
            called with the learning rate of each local step, so that the rate enters where the optimizer applies it;
            for RMSProp, inside the momentum.
        learning_rate: learning rate of the inner optimizer; a number, or a function of the minibatches so far.
        inner_schedule: `(local_step, local_steps) -> factor` of the learning rate; local steps count from 0.
        call_options: further keyword arguments of the model, such as `{"train": True}`.
        mesh: mesh over which the batch is split, with axes of type Auto; the state is replicated.

    Returns:
        `LocoProp(init, step, layers)`.

    Raises:
        ValueError: `mesh` has axes of another type. `init`, `step` and `layers` raise it if the model has no layer
            with a local loss, or if a transfer function is neither detected nor stated.
        TypeError: `inner_optimizer` is not a function.

    Source: Amid, Anil, Warmuth, LocoProp (AISTATS 2022, arXiv 2106.06199); google-research/google-research,
        `locoprop/locoprop_training.ipynb`. The defaults are its settings, except for the sigmoid of its output and
        the schedule of its learning rate.

    >>> import jax, optax
    >>> rows = jax.random.uniform(jax.random.key(0), (32, 8))
    >>> train = locoprop(
    ...     nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(8)]),
    ...     lambda logits, rows: optax.sigmoid_binary_cross_entropy(logits, rows).sum(-1).mean(),
    ...     LocoPropOptions(output_transfer="sigmoid"),
    ... )
    >>> [(layer.name, layer.transfer) for layer in train.layers((rows, rows))]
    [('layers_0', 'tanh'), ('layers_2', 'sigmoid')]
    >>> state = train.init(jax.random.key(1), (rows, rows))
    >>> state, metrics = train.step(state, (rows, rows))
    """
    _check(inner_optimizer, mesh)
    keywords = dict(call_options or {})
    factors = [inner_schedule(index, options.local_steps) for index in range(options.local_steps)]

    def layers_of(variables: Any, inputs: Any) -> list[Layer]:
        variables, inputs = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), (variables, inputs)
        )
        return survey(model, variables, inputs, keywords, options)

    def init(key: Array, batch: Batch) -> LocoPropState:
        inputs, _ = _pair(batch)
        variables = nn.unbox(model.init(key, inputs, **keywords))
        model_state = {name: values for name, values in variables.items() if name not in ("params", "intermediates")}
        layers = layers_of({"params": variables["params"], **model_state}, inputs)
        groups = split(variables["params"], [layer.name for layer in layers])
        if OTHERS in groups:
            names = ", ".join("/".join(path) for path in flatten_dict(groups[OTHERS]))
            warnings.warn(f"parameters without a local loss, trained by backpropagation: {names}", stacklevel=2)
        optimizer_state = {name: inner_optimizer(0.0).init(group) for name, group in groups.items()}
        return LocoPropState(jnp.zeros((), jnp.int32), variables["params"], model_state, optimizer_state)

    def step(state: LocoPropState, batch: Batch) -> tuple[LocoPropState, dict[str, Array]]:
        inputs, targets = _pair(batch)
        layers = layers_of({"params": state.params, **state.model_state}, inputs)
        groups = split(state.params, [layer.name for layer in layers])
        value, model_state, gradients = local_gradients(layers, groups, state.model_state, inputs, targets)
        rate = jnp.asarray(learning_rate(state.step) if callable(learning_rate) else learning_rate)

        def local_step(carry: tuple[Any, Any], factor: Array) -> tuple[tuple[Any, Any], None]:
            updated, states = {}, {}
            for name, group in carry[0].items():
                optimizer = inner_optimizer((rate * factor).astype(jnp.result_type(*jax.tree.leaves(group))))
                updates, states[name] = optimizer.update(gradients[name](group), carry[1][name], group)
                updated[name] = optax.apply_updates(group, updates)
            return (updated, states), None

        (updated, optimizer_state), _ = jax.lax.scan(local_step, (groups, state.optimizer_state), jnp.asarray(factors))
        updates = {name: jax.tree.map(jnp.subtract, updated[name], group) for name, group in groups.items()}
        metrics = {"loss": value, "learning_rate": rate}
        metrics |= {f"update_norm/{name}": optax.tree.norm(update) for name, update in updates.items()}
        return LocoPropState(state.step + 1, join(updated), model_state, optimizer_state), metrics

    def local_gradients(
        layers: list[Layer], groups: Any, model_state: Any, inputs: Any, targets: Any
    ) -> tuple[Array, Any, dict[str, Gradient]]:
        """The loss, the model's new state, and each group's local gradient as a function of the group."""

        def forward(perturbations: dict[str, Array], others: Any) -> tuple[Array, Any]:
            params = join(groups | {OTHERS: others})
            outputs, updated, calls = apply_with_calls(
                model, {"params": params, **model_state}, inputs, keywords, perturbations
            )
            value = loss(outputs, targets)
            if jnp.shape(value) != ():
                raise ValueError(f"loss must return a scalar, the mean over the batch; got shape {jnp.shape(value)}")
            frozen = {call.name: (call.inputs, call.pre_activation) for call in calls if call.name in perturbations}
            return value, (updated, frozen)

        others = groups.get(OTHERS, {})
        zeros = {layer.name: jnp.zeros(layer.pre_activation.shape, layer.pre_activation.dtype) for layer in layers}
        backward = jax.value_and_grad(forward, argnums=(0, 1), has_aux=True)
        (value, (updated, frozen)), (by_pre_activation, by_others) = backward(zeros, others)

        gradients: dict[str, Gradient] = {
            OTHERS: lambda _: jax.tree.map(lambda gradient: options.activation_rate * gradient, by_others)
        }
        for layer in layers:
            layer_inputs, pre_activation = frozen[layer.name]
            gradient = by_pre_activation[layer.name]
            dtype = jnp.float64 if gradient.dtype == jnp.float64 else jnp.float32
            shift = options.activation_rate * gradient.astype(dtype)
            if layer.form == "gram":
                gradients[layer.name] = gram_gradient(layer.module, layer_inputs, shift, groups[layer.name])
            else:
                gradients[layer.name] = plain_gradient(
                    layer.module, layer.transfer, layer_inputs, pre_activation, shift
                )
        return value, updated, gradients

    def layers(batch: Batch) -> list[Layer]:
        def initial(inputs: Any) -> Any:
            return nn.unbox(model.init(jax.random.key(0), inputs, **keywords)), inputs

        variables, inputs = jax.eval_shape(initial, _pair(batch)[0])
        return layers_of({name: values for name, values in variables.items() if name != "intermediates"}, inputs)

    if mesh is None:
        return LocoProp(jax.jit(init), jax.jit(step), layers)
    replicated, split_batch = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return LocoProp(
        jax.jit(init, in_shardings=(replicated, split_batch), out_shardings=replicated),
        jax.jit(step, in_shardings=(replicated, split_batch), out_shardings=replicated),
        layers,
    )


def _pair(batch: Any) -> Batch:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"batch must be a pair (inputs, targets); got {type(batch).__name__}")
    return batch[0], batch[1]


def _check(inner_optimizer: Any, mesh: Mesh | None) -> None:
    if not callable(inner_optimizer):
        raise TypeError(
            "inner_optimizer must be a function from a learning rate to an optax transformation, such as optax.sgd; "
            f"got {type(inner_optimizer).__name__}"
        )
    if mesh is not None and any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(f"mesh must have axes of type Auto; got {mesh.axis_types}")
