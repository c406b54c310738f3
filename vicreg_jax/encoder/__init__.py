"""The trained backbone as a function of images. See docs/guides/evaluation.md."""

from vicreg_jax.encoder.embeddings import Embeddings
from vicreg_jax.encoder.encoder import Encoder
from vicreg_jax.encoder.load import load_encoder

__all__ = ["Embeddings", "Encoder", "load_encoder"]
