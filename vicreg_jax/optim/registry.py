"""Optimizers by name."""

import difflib

import optax

from vicreg_jax.optim.lars import lars
from vicreg_jax.optim.parameter_groups import add_weight_decay, scale_by_learning_rates

OPTIMIZERS = ("lars", "sgd", "adamw", "adam")


def create_optimizer(
    name: str,
    schedule: optax.ScalarOrSchedule,
    *,
    weight_decay: float,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
    decay_biases: bool = False,
    bias_lr_factor: float = 1.0,
    clip_trust_ratio: bool = False,
    lr_in_momentum: bool = False,
    constant_predictor_lr: float | None = None,
) -> optax.GradientTransformation:
    """Create the optimizer of that name; 1-D parameters (biases, BatchNorm) are decayed only on request.

    Args:
      name: "lars"; "sgd", which is LARS without adaptation; "adamw", whose decay is decoupled; or "adam",
        whose decay is in the gradient, as PyTorch's.
      schedule: learning rate, or a function of the step, from 0.
      weight_decay: factor of the parameters that is added to the gradient ("adamw": to the update).
      momentum: of the buffer; in "adam" and "adamw" the decay of the first moment (the second's is 0.999).
      trust_coefficient: of "lars"; the others have none.
      decay_biases: decay 1-D parameters too; "lars" does not adapt them even then.
      bias_lr_factor: learning rate of 1-D parameters over that of the weights.
      clip_trust_ratio: of "lars": divide the trust ratio by the learning rate and clip it at 1.
      lr_in_momentum: of "lars": multiply by the learning rate before the momentum, not after.
      constant_predictor_lr: learning rate, instead of the schedule, of the parameters under the key
        "predictor"; None: no exception.

    Returns:
      A transformation whose updates are added to the parameters (`optax.apply_updates`).

    Raises:
      ValueError: an unknown name, an option that is not of that optimizer or does not go with another one; at
        `init`, a rate for a predictor that is not there.
    """
    if name not in OPTIMIZERS:
        close = difflib.get_close_matches(str(name), OPTIMIZERS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"optimizer is {name!r}; taken are {', '.join(OPTIMIZERS)}{hint}")
    if name == "lars":
        return lars(
            schedule,
            weight_decay,
            momentum,
            trust_coefficient,
            decay_biases=decay_biases,
            bias_lr_factor=bias_lr_factor,
            clip_trust_ratio=clip_trust_ratio,
            lr_in_momentum=lr_in_momentum,
            constant_predictor_lr=constant_predictor_lr,
        )
    for option, value in (("clip_trust_ratio", clip_trust_ratio), ("lr_in_momentum", lr_in_momentum)):
        if value:
            raise ValueError(f"{option} is {value}; taken with lars alone")
    decay = add_weight_decay(weight_decay, decay_biases)
    rate = scale_by_learning_rates(schedule, bias_lr_factor, constant_predictor_lr)
    if name == "sgd":
        return optax.chain(decay, optax.trace(momentum), rate)
    moments = optax.scale_by_adam(b1=momentum)
    return optax.chain(decay, moments, rate) if name == "adam" else optax.chain(moments, decay, rate)
