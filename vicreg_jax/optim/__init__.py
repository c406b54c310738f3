"""Optimizers and learning-rate schedules, as optax transformations.

`optimizers.py` shows where the learning rate is applied, `schedule.py` how large it is.
"""

from vicreg_jax.optim.extension import cosine_from, switched
from vicreg_jax.optim.optimizers import OPTIMIZERS, OptimizerOptions, create_optimizer, lars, weights_only
from vicreg_jax.optim.schedule import (
    barlow_twins_base_lr,
    byol_base_lr,
    decay_start,
    simclr_base_lr,
    vicreg_base_lr,
    warmup_cosine,
    warmup_drops,
    warmup_stable_decay,
)

__all__ = [
    "OPTIMIZERS",
    "OptimizerOptions",
    "barlow_twins_base_lr",
    "byol_base_lr",
    "cosine_from",
    "create_optimizer",
    "decay_start",
    "lars",
    "simclr_base_lr",
    "switched",
    "vicreg_base_lr",
    "warmup_cosine",
    "warmup_drops",
    "warmup_stable_decay",
    "weights_only",
]
