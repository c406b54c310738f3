"""The trained backbone as a function of images. See docs/guides/evaluation.md."""

from vicreg_jax.encoder.build import build_backbone, build_preprocessing
from vicreg_jax.encoder.embeddings import Embeddings
from vicreg_jax.encoder.encoder import Encoder
from vicreg_jax.encoder.load import load_encoder
from vicreg_jax.encoder.weights import Weights, read_backbone, read_head
from vicreg_jax.encoder.weights_file import FORMATS, write_weights

__all__ = [
    "FORMATS",
    "Embeddings",
    "Encoder",
    "Weights",
    "build_backbone",
    "build_preprocessing",
    "load_encoder",
    "read_backbone",
    "read_head",
    "write_weights",
]
