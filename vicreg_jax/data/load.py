"""Data sets by name."""

import math
import os

from vicreg_jax.data.collection import Collection, Selection
from vicreg_jax.data.dataset import Dataset
from vicreg_jax.data.splits import parse_split


def open_collection(name: str, *, data_dir: str | None = None, manual_dir: str | None = None) -> Collection:
    """The data set of that name with all its splits, prepared now where it has not been.

    Args:
      name: 'image_folder', or a name that tfds knows, with or without a config and a version
        ('cifar10', 'imagenette/160px-v2', 'cifar10:3.0.2').
      data_dir: where tfds keeps prepared data sets; None: `TFDS_DATA_DIR`, or ~/tensorflow_datasets.
      manual_dir: what the user brings: the folder of images, or of IDX files, or what tfds asks to be
        downloaded by hand.

    Raises:
      InputError: where it cannot be had, naming the field that is to be changed.
    """
    data_dir, manual_dir = (path and os.path.expanduser(path) for path in (data_dir, manual_dir))
    if name == "image_folder":
        from vicreg_jax.data.image_folder import open_image_folder

        return open_image_folder(manual_dir)
    from vicreg_jax.data.tfds_source import open_tfds

    return open_tfds(name, data_dir=data_dir, manual_dir=manual_dir)


def load_dataset(
    name: str,
    split: str,
    *,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    image_size: int,
    decode_size: int | None = None,
    max_unreadable: float = 1.0,
) -> Dataset:
    """One split of a data set, its images on canvases.

    The canvas is `decode_size` where that is given; else the images' own size, where all are squares of one
    size; else 3/2 of `image_size`.

    Args:
      name, data_dir, manual_dir: see `open_collection`.
      split: such as 'train' or 'train[:90%]'; see `parse_split`.
      image_size: side of a view, in pixels.
      decode_size: side of the canvas, in pixels.
      max_unreadable: share of the images that may turn out unreadable, see `Dataset`.

    Raises:
      InputError: where the data set or the split cannot be had, naming the field that is to be changed.
    """
    collection = open_collection(name, data_dir=data_dir, manual_dir=manual_dir)
    parts = parse_split(split, {name: len(images) for name, images in collection.splits.items()})
    return Dataset(
        name=name,
        split=split,
        source=Selection([(collection.splits[part], indices) for part, indices in parts]),
        canvas=decode_size or collection.side or math.ceil(1.5 * image_size),
        channels=collection.channels,
        class_names=collection.class_names,
        max_unreadable=max_unreadable,
    )
