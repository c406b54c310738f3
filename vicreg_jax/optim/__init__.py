"""Optimisers and learning-rate schedules, as optax transformations."""

from vicreg_jax.optim.lars import lars, weights_only
from vicreg_jax.optim.registry import OPTIMIZERS, create_optimizer
from vicreg_jax.optim.schedule import vicreg_base_lr, warmup_cosine

__all__ = ["OPTIMIZERS", "create_optimizer", "lars", "vicreg_base_lr", "warmup_cosine", "weights_only"]
