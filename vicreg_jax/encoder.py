"""The trained backbone as a function of images, from a run's directory or an export."""

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from vicreg_jax.config.fields import from_json, to_json
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.storage import open_directory
from vicreg_jax.runtime.workdir import read_json, write_json
from vicreg_jax.tasks.pretrain.build import Preprocessing, build_backbone, build_preprocessing
from vicreg_jax.training.checkpoint import read_backbone

_WEIGHTS = "encoder.npz"
_CHUNK = 256  # images that go through the network at once


@dataclass(frozen=True)
class Encoder:
    """A frozen backbone: `encoder(images) -> features`.

    Attributes:
      backbone: the Flax module. `encoder.apply(encoder.variables, inputs)` is its forward pass on inputs that are
        already normalized, for those who go on in Flax.
      variables: `{'params': ..., 'batch_stats': ...}`.
      preprocessing: the size, mean and standard deviation that the backbone was trained with.
      config: the run's config.
    """

    backbone: nn.Module
    variables: dict[str, Any]
    preprocessing: Preprocessing
    config: ConfigDict = field(repr=False)

    @property
    def feature_dim(self) -> int:
        """The width of the features."""
        return self.backbone.feature_dim

    @property
    def channels(self) -> int:
        """The channels of the images that the backbone takes."""
        return self.variables["params"]["conv1"]["kernel"].shape[2]

    @property
    def apply(self) -> Any:
        """The backbone's `apply(variables, inputs [batch, height, width, channels] float, train=False)`."""
        return self.backbone.apply

    def __call__(self, images: Any) -> jax.Array:
        """The features of images, of any number.

        Args:
          images: uint8 `[batch, height, width, channels]`. Those of another size than the backbone was trained with
            are resized as the run's evaluation did (its central crop, antialiased).

        Returns:
          float32 `[batch, feature_dim]`.

        Raises:
          TypeError: images that are not uint8.
          ValueError: another rank or number of channels.
        """
        images = np.asarray(images) if not isinstance(images, jax.Array) else images
        if images.dtype != np.uint8:
            raise TypeError(f"images: got dtype {images.dtype}, takes uint8 (0 to 255; normalization is included)")
        if images.ndim != 4 or images.shape[3] != self.channels:
            raise ValueError(
                f"images: got shape {images.shape}, takes [batch, height, width, channels] with "
                f"{self.channels} channel(s)"
            )
        if 0 in images.shape[1:3]:
            raise ValueError(f"images: got shape {images.shape}, takes images of at least one pixel")
        features = [jnp.zeros((0, self.feature_dim), jnp.float32)]
        for start in range(0, len(images), _CHUNK):
            chunk = images[start : start + _CHUNK]
            # Padded to a power of two, so that batches of all sizes share a few compiled programs.
            rows = 1 << (len(chunk) - 1).bit_length()
            padded = np.zeros((rows, *chunk.shape[1:]), np.uint8)
            padded[: len(chunk)] = chunk
            features.append(self._features(self.variables, padded)[: len(chunk)])
        return jnp.concatenate(features)

    def _features(self, variables: dict[str, Any], images: np.ndarray) -> jax.Array:
        return _features(self.backbone, self.preprocessing, variables, images)

    def export(self, directory: str | os.PathLike) -> Path:
        """Writes the encoder alone, without optimizer or expander, for `load_encoder`.

        Returns:
          The directory, which then holds `config.json` and `encoder.npz` (one array a variable, named by its path).
        """
        path = open_directory(directory, "export")
        path.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.asarray(array) for name, array in flatten_dict(self.variables, sep="/").items()}
        unfinished = path / (_WEIGHTS + ".partial")
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        unfinished.replace(path / _WEIGHTS)
        write_json(path / "config.json", to_json(self.config))
        return path


@partial(jax.jit, static_argnums=(0, 1))
def _features(backbone: nn.Module, preprocessing: Preprocessing, variables: Any, images: jax.Array) -> jax.Array:
    aspect_ratio = jnp.full(len(images), images.shape[2] / images.shape[1], jnp.float32)
    features: Any = backbone.apply(variables, preprocessing.central_view(images, aspect_ratio), train=False)
    return features


def load_encoder(path: str | os.PathLike) -> Encoder:
    """Loads the encoder of a run, from its newest checkpoint, or of an export.

    Args:
      path: a `--workdir` of `launch.py`, or what `Encoder.export` (or `--config.task=export`) wrote; a `gs://` address
        as well.

    Raises:
      InputError: the directory holds neither.

    Example:
      >>> encoder = load_encoder("runs/digits")                     # doctest: +SKIP
      >>> encoder(images_uint8).shape                                # doctest: +SKIP
      (100, 64)
    """
    directory = open_directory(path, "load_encoder")
    fields = read_json(directory / "config.json")
    if fields is None:
        raise InputError(
            f"load_encoder: got {str(path)!r}, takes a directory of a run or an export: there is no config.json in it"
        )
    if fields.get("task") == "smt":
        raise InputError(f"load_encoder: got {str(path)!r}, a sparse manifold transform: takes vicreg_jax.smt.load_smt")
    fields.pop("versions", None)
    config = from_json(fields)
    if (directory / _WEIGHTS).exists():
        with (directory / _WEIGHTS).open("rb") as file, np.load(file) as arrays:
            variables = unflatten_dict({name: arrays[name] for name in arrays.files}, sep="/")
    else:
        variables = read_backbone(directory / "checkpoints")
    channels = variables["params"]["conv1"]["kernel"].shape[2]
    variables = jax.tree.map(jnp.asarray, variables)
    return Encoder(build_backbone(config), variables, build_preprocessing(config, channels), config)
