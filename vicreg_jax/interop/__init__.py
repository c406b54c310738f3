"""Weights to and from PyTorch, timm, detectron2 and safetensors, without torch."""

from vicreg_jax.interop.convert import to_flax, to_torch
from vicreg_jax.interop.read import load_torch
from vicreg_jax.interop.styles import STYLES
from vicreg_jax.interop.write import write_detectron2, write_safetensors, write_torch

__all__ = [
    "STYLES",
    "load_torch",
    "to_flax",
    "to_torch",
    "write_detectron2",
    "write_safetensors",
    "write_torch",
]
