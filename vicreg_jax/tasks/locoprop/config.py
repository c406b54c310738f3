"""The fields of a run of LocoProp; the defaults are the settings of the official code."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import SHARED, Field, Table, make_config
from vicreg_jax.config.rules import (
    BELOW_ONE,
    INTEGERS,
    NOT_NEGATIVE,
    POSITIVE,
    Rule,
    at_least,
    one_of,
)
from vicreg_jax.locoprop.matching import TRANSFERS
from vicreg_jax.locoprop.official import OPTIMIZERS

_VARIANTS = ("m", "s")
METHODS = (*_VARIANTS, *OPTIMIZERS)

_OFFICIAL = (1e-5, 0.999)  # learning rate and momentum
# For backpropagation the best of eight trials each on Fashion-MNIST (docs/methods/locoprop.md).
_TUNED = {
    "sgd": (3.2e-3, 0.0),
    "momentum": (2.7e-4, 0.964),
    "nesterov": (5.4e-4, 0.987),
    "adagrad": (5.6e-3, 0.0),
    "rmsprop": (2.7e-4, 0.964),
    "adam": (5.6e-4, 0.785),
}

_LOCOPROP: Table = {
    "method.variant": Field("m", one_of(*_VARIANTS), "local losses: m, matching; s, squared"),
    "method.activation_rate": Field(10.0, POSITIVE, "step from the pre-activations to their targets"),
    "method.local_steps": Field(10, at_least(1), "local steps per minibatch"),
    "method.local_form": Field(
        "auto", one_of("auto", "plain", "gram"), "squared losses through the batch, or its Gram matrix; auto: by FLOPs"
    ),
}


def locoprop_table(method: str) -> Table:
    """Every field of a run with that method: 'm' or 's', or an optimizer for backpropagation."""
    local = method not in OPTIMIZERS
    base_lr, momentum = _TUNED.get(method, _OFFICIAL)
    changed: dict[str, Any] = {"data.image_size": 28, "checkpoint.every_steps": 300, "logging.every_steps": 10}
    table = dict(SHARED) | {name: dataclasses.replace(SHARED[name], default=new) for name, new in changed.items()}
    table["method.name"] = Field(
        "locoprop" if local else "backpropagation",
        one_of("locoprop", "backpropagation"),
        "method; choose it by the config's argument",
    )
    if local:
        variant = method if method in _VARIANTS else "m"
        table |= _LOCOPROP | {"method.variant": dataclasses.replace(_LOCOPROP["method.variant"], default=variant)}
    return table | {
        "model.name": Field("autoencoder", one_of("autoencoder"), "network"),
        "model.widths": Field((1000, 500, 250), INTEGERS, "widths of the encoder; the decoder has them in reverse"),
        "model.code": Field(30, at_least(1), "width of the code"),
        "model.transfer": Field(
            "tanh", one_of(*(name for name in TRANSFERS if name != "softmax")), "transfer function of the hidden layers"
        ),
        "optim.name": Field(
            "rmsprop" if local else method, one_of(*OPTIMIZERS), "optimizer; with LocoProp, of the local steps"
        ),
        "optim.base_lr": Field(
            base_lr,
            Rule(float, "a number above 0, at most 1e30", lambda value: 0 < value <= 1e30),
            "peak learning rate, for any batch size",
        ),
        "optim.momentum": Field(momentum, BELOW_ONE, "momentum; of Adam the decay of the first moment"),
        "optim.decay": Field(0.9, BELOW_ONE, "decay of the second moment"),
        "optim.epsilon": Field(1e-5, NOT_NEGATIVE, "added to the root of the second moment"),
        "optim.warmup_epochs": Field(5, at_least(0), "epochs of warmup, one step per epoch; the first trains at 0"),
        "optim.schedule_epochs": Field(
            100, at_least(2), "epoch at which the learning rate reaches 0; above train.epochs"
        ),
        "train.batch_size": Field(1000, at_least(2), "global batch size"),
        "train.epochs": Field(99, at_least(1), "epochs"),
        "evaluation.batch_size": Field(1000, at_least(1), "images per batch of the evaluation"),
        "evaluation.every_epochs": Field(
            1, at_least(0), "epochs between evaluations of the loss on both splits; 0: only after the last step"
        ),
    }


def locoprop_config(method: str = "m") -> ConfigDict:
    """The config with every default; a file of `configs/` names the data.

    Args:
        method: 'm' or 's', the variants of LocoProp, or the optimizer of backpropagation.

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    return make_config("locoprop", locoprop_table(method))
