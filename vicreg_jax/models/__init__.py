"""Flax Linen modules: ResNet backbones, which compute features, and heads, which compute embeddings."""

from vicreg_jax.models.head import OUTPUT_NORMS, Head
from vicreg_jax.models.registry import (
    BACKBONES,
    Architecture,
    count_parameters,
    create_backbone,
)
from vicreg_jax.models.resnet import STEMS, BasicBlock, Bottleneck, ResNet

__all__ = [
    "BACKBONES",
    "OUTPUT_NORMS",
    "STEMS",
    "Architecture",
    "BasicBlock",
    "Bottleneck",
    "Head",
    "ResNet",
    "count_parameters",
    "create_backbone",
]
