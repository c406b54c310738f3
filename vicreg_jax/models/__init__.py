"""Flax Linen modules: the ResNets that give features and the expander that gives embeddings."""

from vicreg_jax.models.expander import Expander
from vicreg_jax.models.registry import (
    BACKBONES,
    Architecture,
    count_parameters,
    create_backbone,
)
from vicreg_jax.models.resnet import STEMS, BasicBlock, Bottleneck, ResNet

__all__ = [
    "BACKBONES",
    "STEMS",
    "Architecture",
    "BasicBlock",
    "Bottleneck",
    "Expander",
    "ResNet",
    "count_parameters",
    "create_backbone",
]
