"""LocoProp (Amid, Anil, Warmuth, AISTATS 2022, arXiv 2106.06199), local loss optimization, for Flax models."""

from vicreg_jax.locoprop.autoencoder import Autoencoder, glorot_bias, reconstruction_loss
from vicreg_jax.locoprop.backpropagation import Backpropagation, BackpropagationState, backpropagation
from vicreg_jax.locoprop.local import LocalFlops, local_flops
from vicreg_jax.locoprop.matching import TRANSFERS, matching_loss
from vicreg_jax.locoprop.official import (
    OPTIMIZERS,
    create_optimizer,
    linear_to_quarter,
    official_learning_rate,
    official_optimizer,
)
from vicreg_jax.locoprop.options import LocoPropOptions
from vicreg_jax.locoprop.squared import squared_solution
from vicreg_jax.locoprop.step import LocoProp, LocoPropState, locoprop
from vicreg_jax.locoprop.survey import Layer

__all__ = [
    "OPTIMIZERS",
    "TRANSFERS",
    "Autoencoder",
    "Backpropagation",
    "BackpropagationState",
    "Layer",
    "LocalFlops",
    "LocoProp",
    "LocoPropOptions",
    "LocoPropState",
    "backpropagation",
    "create_optimizer",
    "glorot_bias",
    "linear_to_quarter",
    "local_flops",
    "locoprop",
    "matching_loss",
    "official_learning_rate",
    "official_optimizer",
    "reconstruction_loss",
    "squared_solution",
]
