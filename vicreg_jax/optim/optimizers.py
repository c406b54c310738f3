"""LARS, SGD, AdamW and Adam as chains of optax transformations, and where each applies the learning rate.

All chains have the same few steps, in different order:

* `lars`: weight decay, trust ratio, momentum, learning rate (with `lr_in_momentum`: learning rate, momentum).
* `sgd`: weight decay, momentum, learning rate.
* `adamw`: moments, weight decay, learning rate.
* `adam`: weight decay, moments, learning rate.
"""

import difflib
import math
import operator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

OPTIMIZERS = ("lars", "sgd", "adamw", "adam")


@dataclass(frozen=True)
class OptimizerOptions:
    """Settings of an optimizer.

    Parameters with one dimension (biases, the scale and shift of BatchNorm) are decayed only with `decay_biases`, and
    LARS never adapts them.

    Attributes:
        name: "lars"; "sgd", which is LARS without the trust ratio; "adamw", whose weight decay is decoupled; or "adam",
            whose weight decay is part of the gradient, as PyTorch's.
        weight_decay: This multiple of the parameters is added to the gradient ("adamw": to the update).
        momentum: Decay of the momentum buffer, neither Nesterov nor dampened; for "adam" and "adamw" the decay of the
            first moment (the second moment's is 0.999).
        trust_coefficient: For "lars", the trust ratio is this number times the parameter's norm over the gradient's.
        decay_biases: Decay parameters with one dimension, too.
        bias_lr_factor: Learning rate of parameters with one dimension, relative to the others.
        clip_trust_ratio: For "lars" only: divide the trust ratio by the learning rate and clip it at 1.
        lr_in_momentum: For "lars" only: multiply by the learning rate before the momentum, not after.

    Raises:
        ValueError: If a field is out of range, or set for an optimizer that does not have it.

    Example:
        >>> OptimizerOptions("lars", weight_decay=1e-6).momentum
        0.9
    """

    name: str
    weight_decay: float = 1e-6
    momentum: float = 0.9
    trust_coefficient: float = 0.001
    decay_biases: bool = False
    bias_lr_factor: float = 1.0
    clip_trust_ratio: bool = False
    lr_in_momentum: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.name not in OPTIMIZERS:
            close = difflib.get_close_matches(str(self.name), OPTIMIZERS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"name must be one of {', '.join(OPTIMIZERS)}; got {self.name!r}{hint}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be a number of at least 0; got {self.weight_decay!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be a number from 0 to below 1; got {self.momentum!r}")
        for field in ("trust_coefficient", "bias_lr_factor"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be a number above 0; got {getattr(self, field)!r}")
        for field in ("clip_trust_ratio", "lr_in_momentum"):
            if getattr(self, field) and self.name != "lars":
                raise ValueError(f"{field} must be False for {self.name}, as only lars has it; got True")


def create_optimizer(
    options: OptimizerOptions,
    schedule: optax.ScalarOrSchedule,
    *,
    constant_predictor_lr: float | None = None,
) -> optax.GradientTransformation:
    r"""Create an optimizer.

    LARS, for a parameter :math:`w` with gradient :math:`g`, momentum buffer :math:`m`, weight decay :math:`\lambda`,
    trust coefficient :math:`\eta`, momentum :math:`\mu` and learning rate :math:`\alpha_t`:

    .. math::

        g \leftarrow g + \lambda w, \quad
        g \leftarrow g \, \eta \|w\| / \|g\|, \quad
        m \leftarrow \mu m + g, \quad
        w \leftarrow w - \alpha_t m.

    Parameters with one dimension skip the first two steps (with `decay_biases` only the second), and a trust ratio with
    a zero norm is 1. The learning rate stays outside of the momentum buffer, as in PyTorch and unlike `optax.lars`: the
    two give different trajectories whenever the learning rate changes. The options change this as follows:

    * `lr_in_momentum`: :math:`m \leftarrow \mu m + \alpha_t g` and :math:`w \leftarrow w - m`.
    * `clip_trust_ratio`: the trust ratio is :math:`\min(\eta \|w\| / (\|g\| \alpha_t), 1)`, so that the learning rate
      bounds the adapted one. With a zero norm it stays 1.

    SGD is LARS without the second step.

    Args:
        options: Settings of the optimizer.
        schedule: Learning rate, or a function from the step (from 0) to it.
        constant_predictor_lr: Learning rate of the parameters under the key "predictor", which then do not follow the
            schedule. None: they follow it.

    Returns:
        A transformation whose updates are added to the parameters (`optax.apply_updates`). Norms are those of whole
        parameters, even if these are sharded under `jit`.

    Raises:
        ValueError: If `constant_predictor_lr` is set together with `clip_trust_ratio`, or, at `init`, without
            parameters under "predictor".

    Source: LARS: You et al. 2017 (arXiv 1708.03888); facebookresearch/vicreg `main_vicreg.py`, `LARS`.
    `bias_lr_factor`: facebookresearch/barlowtwins `main.py`. `clip_trust_ratio`: vturrisi/solo-learn
    `solo/utils/lars.py` (the clipping, not its ratio). `lr_in_momentum`: google-research/simclr
    `tf2/lars_optimizer.py`. `constant_predictor_lr`: facebookresearch/simsiam `main_simsiam.py`, `--fix-pred-lr`.

    Example:
        >>> optimizer = create_optimizer(OptimizerOptions("sgd", momentum=0.0, weight_decay=0.0), 0.1)
        >>> params, gradient = {"kernel": jnp.ones((1, 2))}, {"kernel": jnp.full((1, 2), 0.5)}
        >>> updates, state = optimizer.update(gradient, optimizer.init(params), params)
        >>> round(float(updates["kernel"][0, 0]), 4)
        -0.05
    """
    if options.clip_trust_ratio and constant_predictor_lr is not None:
        raise ValueError(f"constant_predictor_lr must be None with clip_trust_ratio; got {constant_predictor_lr!r}")

    weight_decay = optax.add_decayed_weights(options.weight_decay, mask=None if options.decay_biases else weights_only)
    momentum = optax.trace(options.momentum)
    learning_rate = _scale_by_learning_rate(schedule, options.bias_lr_factor, constant_predictor_lr)

    if options.name == "lars":
        if options.clip_trust_ratio:
            trust_ratio = _scale_by_clipped_trust_ratio(schedule, options.trust_coefficient)
        else:
            trust_ratio = _scale_by_trust_ratio(options.trust_coefficient)
        trust_ratio = optax.masked(trust_ratio, weights_only)
        if options.lr_in_momentum:
            return optax.chain(weight_decay, trust_ratio, learning_rate, momentum)
        return optax.chain(weight_decay, trust_ratio, momentum, learning_rate)
    if options.name == "sgd":
        return optax.chain(weight_decay, momentum, learning_rate)
    moments = optax.scale_by_adam(b1=options.momentum)
    if options.name == "adam":
        return optax.chain(weight_decay, moments, learning_rate)
    return optax.chain(moments, weight_decay, learning_rate)


def lars(
    schedule: optax.ScalarOrSchedule,
    weight_decay: float = 1e-6,
    momentum: float = 0.9,
    trust_coefficient: float = 0.001,
    *,
    decay_biases: bool = False,
    bias_lr_factor: float = 1.0,
    clip_trust_ratio: bool = False,
    lr_in_momentum: bool = False,
) -> optax.GradientTransformation:
    """Create LARS in one call: `create_optimizer` with the `OptimizerOptions` of these names."""
    options = OptimizerOptions(
        "lars",
        weight_decay=weight_decay,
        momentum=momentum,
        trust_coefficient=trust_coefficient,
        decay_biases=decay_biases,
        bias_lr_factor=bias_lr_factor,
        clip_trust_ratio=clip_trust_ratio,
        lr_in_momentum=lr_in_momentum,
    )
    return create_optimizer(options, schedule)


def weights_only(params: Any) -> Any:
    """Mask of the parameters that are decayed and adapted: all but those with one dimension (biases, BatchNorm).

    By rank and not by name, as in the official code.
    """
    return jax.tree.map(lambda parameter: parameter.ndim != 1, params)


def _scale_by_learning_rate(
    schedule: optax.ScalarOrSchedule, bias_lr_factor: float, constant_predictor_lr: float | None
) -> optax.GradientTransformation:
    """Multiply by minus the learning rate, with exceptions for biases and for the predictor."""
    if constant_predictor_lr is None:
        steps = [optax.scale_by_learning_rate(schedule)]
    else:
        steps = [
            optax.masked(optax.scale_by_learning_rate(rate), partial(_predictor_mask, is_predictor=is_predictor))
            for rate, is_predictor in ((schedule, False), (constant_predictor_lr, True))
        ]
    if bias_lr_factor != 1:
        steps.append(optax.masked(optax.scale(bias_lr_factor), _biases_only))
    # No chain around a single step: without exceptions the optimizer state has the plain structure.
    return optax.chain(*steps) if len(steps) > 1 else steps[0]


def _biases_only(params: Any) -> Any:
    return jax.tree.map(operator.not_, weights_only(params))


def _predictor_mask(params: Any, is_predictor: bool) -> Any:
    # A prefix of the parameter tree is enough for a mask.
    if "predictor" not in params:
        raise ValueError(
            f"constant_predictor_lr must be None for parameters without a 'predictor'; got parts {', '.join(params)}"
        )
    return {name: (name == "predictor") is is_predictor for name in params}


def _scale_by_trust_ratio(trust_coefficient: float) -> optax.GradientTransformation:
    """Scale as `optax.scale_by_trust_ratio` does, with each norm computed once.

    optax computes it twice, so that it has a gradient at zero, and reads parameters and updates twice for it.
    """

    def update(updates, state, params):
        def adapt(update, parameter):
            ratio, is_defined = _trust_ratio(update, parameter, trust_coefficient)
            return update * jnp.where(is_defined, ratio, 1).astype(update.dtype)

        return jax.tree.map(adapt, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scale_by_clipped_trust_ratio(
    schedule: optax.ScalarOrSchedule, trust_coefficient: float
) -> optax.GradientTransformation:
    def init(params):
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates, state, params):
        rate = schedule(state.count) if callable(schedule) else schedule

        def adapt(update, parameter):
            ratio, is_defined = _trust_ratio(update, parameter, trust_coefficient)
            # Where the learning rate is 0, at the first step of a warmup, nothing is divided by it.
            is_clipped = is_defined & (ratio < rate)
            return update * jnp.where(is_clipped, ratio / jnp.where(is_clipped, rate, 1), 1).astype(update.dtype)

        count = optax.safe_increment(state.count)
        return jax.tree.map(adapt, updates, params), optax.ScaleByScheduleState(count)

    return optax.GradientTransformation(init, update)


def _trust_ratio(update: jax.Array, parameter: jax.Array, trust_coefficient: float) -> tuple[jax.Array, jax.Array]:
    """Return the trust ratio, and whether it is defined: it is not where a norm is zero."""
    norm, update_norm = jnp.linalg.norm(parameter), jnp.linalg.norm(update)
    ratio = trust_coefficient * norm / jnp.where(update_norm > 0, update_norm, 1)
    return ratio, (norm > 0) & (update_norm > 0)
