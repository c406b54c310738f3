"""The trained backbone as a function of images, from a workdir or an export."""

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

from vicreg_jax.augment import Preprocessing, central_view
from vicreg_jax.config import from_json, pretrain_table, to_json
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.storage import open_directory
from vicreg_jax.runtime.workdir import read_json, write_json
from vicreg_jax.tasks.pretrain.build import build_backbone, build_preprocessing
from vicreg_jax.training.checkpoint import read_backbone

_WEIGHTS = "encoder.npz"
_CHUNK = 256  # images per pass through the network


@dataclass(frozen=True)
class Encoder:
    """A frozen backbone: `encoder(images) -> features`.

    Attributes:
        backbone: the Flax module. `encoder.apply(encoder.variables, inputs, train=False)` is its forward pass on
            normalized inputs, for those who continue in Flax.
        variables: `{'params': ..., 'batch_stats': ...}`.
        preprocessing: size, mean and standard deviation from training.
        config: the config of the run.
    """

    backbone: nn.Module
    variables: dict[str, Any]
    preprocessing: Preprocessing
    config: ConfigDict = field(repr=False)

    @property
    def feature_dim(self) -> int:
        """Width of the features."""
        return self.backbone.feature_dim

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.variables["params"]["conv1"]["kernel"].shape[2]

    @property
    def apply(self) -> Any:
        """The backbone's `apply(variables, inputs [batch, height, width, channels] float, train=False)`."""
        return self.backbone.apply

    def __call__(self, images: Any) -> jax.Array:
        """The features of a batch of images of any size.

        Args:
            images: uint8 `[batch, height, width, channels]`. Images of another size than in training are resized as by
                the run's evaluation (central crop, antialiased).

        Returns:
            float32 `[batch, feature_dim]`.

        Raises:
            TypeError: images that are not uint8.
            ValueError: another rank or number of channels.
        """
        images = np.asarray(images) if not isinstance(images, jax.Array) else images
        if images.dtype != np.uint8:
            raise TypeError(f"images must be uint8 (0 to 255; normalization is included); got dtype {images.dtype}")
        if images.ndim != 4 or images.shape[3] != self.channels:
            raise ValueError(
                f"images must have shape [batch, height, width, {self.channels}]; got shape {images.shape}"
            )
        if 0 in images.shape[1:3]:
            raise ValueError(f"images must have at least one pixel; got shape {images.shape}")
        features = [jnp.zeros((0, self.feature_dim), jnp.float32)]
        for start in range(0, len(images), _CHUNK):
            chunk = images[start : start + _CHUNK]
            # Padded to a power of two: batches of all sizes share a few compiled programs.
            rows = 1 << (len(chunk) - 1).bit_length()
            padded = np.zeros((rows, *chunk.shape[1:]), np.uint8)
            padded[: len(chunk)] = chunk
            features.append(self._features(self.variables, padded)[: len(chunk)])
        return jnp.concatenate(features)

    def _features(self, variables: dict[str, Any], images: np.ndarray) -> jax.Array:
        return _features(self.backbone, self.preprocessing, variables, images)

    def export(self, directory: str | os.PathLike) -> Path:
        """Writes the encoder, without optimizer and expander, for `load_encoder`.

        Returns:
            The directory, which holds `config.json` and `encoder.npz` (one array per variable, named by its path).
        """
        path = open_directory(directory, "directory")
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
    features: Any = backbone.apply(variables, central_view(images, aspect_ratio, preprocessing), train=False)
    return features


def load_encoder(path: str | os.PathLike) -> Encoder:
    """Loads the encoder of a run, from its newest checkpoint, or of an export.

    Args:
        path: a `--workdir` of `launch.py`, or the directory of an export (`Encoder.export`, or `--config.task=export`);
            a `gs://` address works too.

    Raises:
        ValueError: the directory holds neither.

    Example:
        >>> encoder = load_encoder("runs/digits")                      # doctest: +SKIP
        >>> encoder(images_uint8).shape                                # doctest: +SKIP
        (100, 64)
    """
    directory = open_directory(path, "path")
    fields = read_json(directory / "config.json")
    if fields is None:
        raise InputError(f"path must be the directory of a run or an export; got {str(path)!r} without a config.json")
    if fields.get("task") == "smt":
        raise InputError(
            f"path must be a run of a network; got {str(path)!r}, a sparse manifold transform "
            "(vicreg_jax.smt.load_smt loads it)"
        )
    version = fields.pop("versions", {}).get("vicreg_jax", "another version")
    try:
        config = from_json(fields, pretrain_table(fields.get("method", {}).get("name", "vicreg")))
    except ValueError as error:
        raise InputError(f"path must be of a compatible version; got {str(path)!r} of {version} ({error})") from error
    if (directory / _WEIGHTS).exists():
        with (directory / _WEIGHTS).open("rb") as file, np.load(file) as arrays:
            variables = unflatten_dict({name: arrays[name] for name in arrays.files}, sep="/")
    else:
        variables = read_backbone(directory / "checkpoints")
    channels = variables["params"]["conv1"]["kernel"].shape[2]
    variables = jax.tree.map(jnp.asarray, variables)
    return Encoder(build_backbone(config), variables, build_preprocessing(config, channels), config)
