"""The trained backbone as a function of images."""

import dataclasses
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vicreg_jax.augment import Preprocessing, central_view
from vicreg_jax.data import Batch, Dataset, evaluation_batches, load_dataset
from vicreg_jax.encoder.embeddings import Embeddings, image_name, join
from vicreg_jax.encoder.export import digest_of, write_export
from vicreg_jax.evaluation.features import feature_batches
from vicreg_jax.models import ResNet, ViT, input_channels
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.processes import union
from vicreg_jax.runtime.storage import cache_directory

_CHUNK = 256  # images per pass through the network


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A frozen backbone: `encoder(images) -> features`.

    The features of an image are the same from its pixels with their aspect ratio, from its dataset and from its folder:

        encoder(images, aspect_ratio)
        encoder(dataset)
        encoder.embed_folder(path).features

    Attributes:
        backbone: the Flax module. `encoder.apply(encoder.variables, inputs, train=False)` is its forward pass on
            normalized inputs, for those who continue in Flax.
        variables: `{'params': ..., 'batch_stats': ...}`.
        preprocessing: size, mean and standard deviation from training.
        config: the config of the run.
    """

    backbone: ResNet | ViT
    variables: dict[str, Any]
    preprocessing: Preprocessing
    config: ConfigDict = dataclasses.field(repr=False)

    @property
    def feature_dim(self) -> int:
        """Width of the features."""
        return self.backbone.feature_dim

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return input_channels(self.variables)

    @property
    def apply(self) -> Any:
        """The backbone's `apply(variables, inputs [batch, height, width, channels] float, train=False)`."""
        return self.backbone.apply

    @property
    def digest(self) -> str:
        """The SHA-256 of all weights and of the preprocessing, in hexadecimal. Features depend on nothing else."""
        return digest_of(self.variables, repr(self.preprocessing))

    def __call__(self, images: Any, aspect_ratio: Any = None) -> Any:
        """The features of a batch of images of any size, or of a whole dataset.

        Args:
            images: uint8 `[batch, height, width, channels]`, resized as by the run's evaluation (central crop,
                antialiased). Or a dataset of `vicreg_jax.data.load_dataset`, whose images are read one batch at a time
                and converted to the encoder's channels.
            aspect_ratio: width / height of each image before it was stretched to this height and width: a number, or
                `[batch]`. None: nothing was stretched, which is true of an image as you open it. It is not true of a
                dataset's `image`, a square canvas, unless its `aspect_ratio` is 1: pass the two together.

        Returns:
            float32 `[batch, feature_dim]`; of a dataset a NumPy array, by index. An image that cannot be read has the
            features of the next one that can, and its index is in `dataset.unreadable`.

        Raises:
            TypeError: images that are not uint8, or an aspect ratio beside a dataset.
            ValueError: another rank or number of channels; an aspect ratio that is not above 0, or not one per image.
        """
        if isinstance(images, Dataset):
            if aspect_ratio is not None:
                raise TypeError(f"aspect_ratio must be None for a dataset, which knows it; got {aspect_ratio!r:.40}")
            features = [rows.features for rows in self._feature_batches(images)]
            return np.concatenate([np.zeros((0, self.feature_dim), np.float32), *features])
        images = np.asarray(images) if not isinstance(images, jax.Array) else images
        self._check(images)
        ratios = _check_aspect_ratio(aspect_ratio, images)
        found = [jnp.zeros((0, self.feature_dim), jnp.float32)]
        for start in range(0, len(images), _CHUNK):
            chunk = images[start : start + _CHUNK]
            # Padded to a power of two: batches of all sizes share a few compiled programs.
            rows = _padded_rows(len(chunk))
            padded, padded_ratios = np.zeros((rows, *chunk.shape[1:]), np.uint8), np.ones(rows, np.float32)
            padded[: len(chunk)], padded_ratios[: len(chunk)] = chunk, ratios[start : start + _CHUNK]
            found.append(self._features(self.variables, padded, padded_ratios)[: len(chunk)])
        return jnp.concatenate(found)

    def embed_folder(self, path: str | os.PathLike) -> Embeddings:
        """The features of every image below a folder, in the order of their names.

        Images are decoded as in the run. Those that cannot be read are left out, with a warning.

        Args:
            path: a folder as for the dataset `image_folder`: subfolders are the classes. Folders `train` and `test` in
                it are no classes, and both are embedded.

        Raises:
            ValueError: there is no such folder, or no image in it.
        """
        try:
            dataset = self.open_dataset("image_folder", manual_dir=os.fspath(path))
        except ValueError as error:
            raise InputError(str(error).replace("manual_dir", "path", 1)) from error
        return join(list(self.embed(dataset, root=path)))

    def open_dataset(
        self,
        name: str,
        split: str = "all",
        *,
        data_dir: str | None = None,
        manual_dir: str | None = None,
        labels_file: str | None = None,
        max_unreadable: float = 1.0,
    ) -> Dataset:
        """A dataset on canvases as in the run, with its value range and channels; the files of a folder by name.

        Args:
            name, data_dir, manual_dir, labels_file: see `vicreg_jax.data.open_collection`.
            split, max_unreadable: see `vicreg_jax.data.load_dataset`.

        Raises:
            ValueError: the dataset or the split cannot be opened.
        """
        dataset = load_dataset(
            name,
            split,
            data_dir=data_dir,
            manual_dir=manual_dir,
            labels_file=labels_file,
            cache_dir=cache_directory("data"),
            image_size=self.preprocessing.image_size,
            decode_size=self.config.data.decode_size,
            max_unreadable=max_unreadable,
        )
        value_range = self.config.data.value_range
        if dataset.value_range is not None and isinstance(value_range, tuple):  # as in the run
            dataset = dataclasses.replace(dataset, value_range=value_range)
        if name == "image_folder":
            dataset = dataclasses.replace(dataset, source=sorted(dataset.source), parts=())
        return dataclasses.replace(dataset, channels=self.channels)

    def embed(
        self,
        dataset: Dataset,
        *,
        root: str | os.PathLike = ".",
        sharding: NamedSharding | None = None,
        batch_size: int = _CHUNK,
        workers: int = 0,
    ) -> Iterator[Embeddings]:
        """Yields the features of a dataset batch by batch, without the images that cannot be read.

        Args:
            dataset: any size; only a few batches are in memory at a time.
            root: the folder that names of files are relative to.
            sharding: of the batches over devices, also of several processes, which then all call this; None: the first
                device.
            batch_size: images per batch.
            workers: see `vicreg_jax.data.evaluation_batches`.
        """
        start = 0
        for rows in self._feature_batches(dataset, sharding=sharding, batch_size=batch_size, workers=workers):
            unreadable = union(dataset.unreadable)
            kept = [row for row in range(len(rows.labels)) if start + row not in unreadable]
            names = [image_name(dataset, start + row, root) for row in kept]
            yield Embeddings(names, rows.features[kept], rows.labels[kept], dataset.class_names)
            start += len(rows.labels)

    def _feature_batches(
        self,
        dataset: Dataset,
        *,
        sharding: NamedSharding | None = None,
        batch_size: int = _CHUNK,
        workers: int = 0,
    ) -> Iterator[Any]:
        if sharding is None:
            mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.local_devices()[:1])
            sharding = NamedSharding(mesh, PartitionSpec("data"))
            batch_size = min(batch_size, _padded_rows(len(dataset)))
        batches = evaluation_batches(
            dataclasses.replace(dataset, channels=self.channels),
            batch_size=batch_size,
            sharding=sharding,
            workers=workers,
        )
        # From the host: the devices of the sharding may be others than where the variables are.
        variables = jax.device_put(jax.device_get(self.variables), NamedSharding(sharding.mesh, PartitionSpec()))

        def features(variables: Any, batch: Batch) -> jax.Array:
            return self._features(variables, batch["image"], batch["aspect_ratio"])

        return feature_batches(features, variables, batches)

    def _features(self, variables: Any, images: Any, aspect_ratio: Any) -> jax.Array:
        return _features(self.backbone, self.preprocessing, variables, images, aspect_ratio)

    def _check(self, images: Any) -> None:
        if images.dtype != np.uint8:
            raise TypeError(f"images must be uint8 (0 to 255; normalization is included); got dtype {images.dtype}")
        if images.ndim != 4 or images.shape[3] != self.channels:
            raise ValueError(
                f"images must have shape [batch, height, width, {self.channels}]; got shape {images.shape}"
            )
        if 0 in images.shape[1:3]:
            raise ValueError(f"images must have at least one pixel; got shape {images.shape}")

    def export(self, directory: str | os.PathLike) -> Path:
        """Writes the encoder, without optimizer and expander, for `load_encoder`.

        It is written beside the directory, which it replaces when it is complete.

        Args:
            directory: new, empty, or an earlier export.

        Returns:
            The directory, which holds `config.json` and `encoder.npz` (one array per variable, named by its path).

        Raises:
            ValueError: there is something else by that name, or it cannot be written.
        """
        return write_export(directory, self.variables, self.config)


@partial(jax.jit, static_argnums=(0, 1))
def _features(
    backbone: nn.Module, preprocessing: Preprocessing, variables: Any, images: jax.Array, aspect_ratio: jax.Array
) -> jax.Array:
    features: Any = backbone.apply(variables, central_view(images, aspect_ratio, preprocessing), train=False)
    return features


def _padded_rows(rows: int) -> int:
    return 1 << (rows - 1).bit_length()


def _check_aspect_ratio(aspect_ratio: Any, images: Any) -> np.ndarray:
    """One aspect ratio per image."""
    if aspect_ratio is None:
        aspect_ratio = images.shape[2] / images.shape[1]
    ratios = np.asarray(aspect_ratio)
    is_number = np.issubdtype(ratios.dtype, np.floating) or np.issubdtype(ratios.dtype, np.integer)
    if not is_number or not np.all(np.isfinite(ratios) & (ratios > 0)):
        raise ValueError(f"aspect_ratio must be width / height, numbers above 0; got {aspect_ratio!r:.80}")
    if ratios.shape not in ((), (len(images),)):
        raise ValueError(
            f"aspect_ratio must be a number, or one per image, shape ({len(images)},); got shape {ratios.shape}"
        )
    return np.broadcast_to(ratios.astype(np.float32), len(images))
