"""Flax Linen modules: backbones (ResNet, ViT), which compute features, and heads, which compute embeddings."""

from vicreg_jax.models.head import OUTPUT_NORMS, Head
from vicreg_jax.models.registry import (
    BACKBONES,
    RESNETS,
    TRANSFORMERS,
    Architecture,
    Transformer,
    count_parameters,
    create_backbone,
    fastest_on,
    input_channels,
)
from vicreg_jax.models.resnet import STEMS, BasicBlock, Bottleneck, ResNet
from vicreg_jax.models.vit import POOLINGS, STOCHASTIC_DEPTH, ViT, resize_positions

__all__ = [
    "BACKBONES",
    "OUTPUT_NORMS",
    "POOLINGS",
    "RESNETS",
    "STEMS",
    "STOCHASTIC_DEPTH",
    "TRANSFORMERS",
    "Architecture",
    "BasicBlock",
    "Bottleneck",
    "Head",
    "ResNet",
    "Transformer",
    "ViT",
    "count_parameters",
    "create_backbone",
    "fastest_on",
    "input_channels",
    "resize_positions",
]
