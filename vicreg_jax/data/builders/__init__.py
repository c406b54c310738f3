"""Our own tfds builders. Importing them registers them with tfds; preparing them needs no TensorFlow."""

from vicreg_jax.data.builders.digits import Digits
from vicreg_jax.data.builders.idx_images import IdxImages

__all__ = ["Digits", "IdxImages"]
