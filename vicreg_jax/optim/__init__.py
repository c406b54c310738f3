"""Optimizers and learning-rate schedules, as optax transformations."""

from vicreg_jax.optim.base_lr import barlow_twins_base_lr, byol_base_lr, simclr_base_lr, vicreg_base_lr
from vicreg_jax.optim.lars import lars
from vicreg_jax.optim.parameter_groups import weights_only
from vicreg_jax.optim.registry import OPTIMIZERS, create_optimizer
from vicreg_jax.optim.schedule import warmup_cosine, warmup_drops

__all__ = [
    "OPTIMIZERS",
    "barlow_twins_base_lr",
    "byol_base_lr",
    "create_optimizer",
    "lars",
    "simclr_base_lr",
    "vicreg_base_lr",
    "warmup_cosine",
    "warmup_drops",
    "weights_only",
]
