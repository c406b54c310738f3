"""Which parameters are decayed, and which take another learning rate."""

import operator
from functools import partial
from typing import Any

import jax
import optax


def weights_only(params: Any) -> Any:
    """Mask of the parameters that are decayed and adapted: all but the 1-D ones (biases, BatchNorm).

    By rank and not by name, as the official code does.
    """
    return jax.tree.map(lambda parameter: parameter.ndim != 1, params)


def add_weight_decay(weight_decay: float, decay_biases: bool = False) -> optax.GradientTransformation:
    """Add that factor of the parameters to what comes in, for the 1-D ones only with `decay_biases`."""
    return optax.add_decayed_weights(weight_decay, mask=None if decay_biases else weights_only)


def scale_by_learning_rates(
    schedule: optax.ScalarOrSchedule, bias_lr_factor: float = 1.0, constant_predictor_lr: float | None = None
) -> optax.GradientTransformation:
    """Multiply by minus the learning rate: that of 1-D parameters and that of the predictor may be others.

    Args:
      schedule: learning rate, or a function of the step, from 0.
      bias_lr_factor: learning rate of a 1-D parameter over that of a weight in its place.
      constant_predictor_lr: instead of the schedule for what is under the key "predictor"; None: no exception.

    Raises:
      ValueError: at `init`, a constant rate for a predictor that is not there.
    """
    if constant_predictor_lr is None:
        rates = [optax.scale_by_learning_rate(schedule)]
    else:
        # A prefix of the tree is mask enough.
        rates = [
            optax.masked(optax.scale_by_learning_rate(rate), partial(_under_predictor, expected=predictor))
            for rate, predictor in ((schedule, False), (constant_predictor_lr, True))
        ]
    if bias_lr_factor != 1:
        rates.append(optax.masked(optax.scale(bias_lr_factor), _one_dimensional))
    # One alone is not wrapped: a run without exceptions keeps the plain state.
    return optax.chain(*rates) if len(rates) > 1 else rates[0]


def _one_dimensional(params: Any) -> Any:
    return jax.tree.map(operator.not_, weights_only(params))


def _under_predictor(params: Any, expected: bool) -> Any:
    if "predictor" not in params:
        raise ValueError(f"constant_predictor_lr is set; the parameters have no 'predictor', but {', '.join(params)}")
    return {name: (name == "predictor") is expected for name in params}
