"""Datasets by name."""

import math
import os
from collections.abc import Sequence

from vicreg_jax.data.collection import NO_LABEL, Collection, LabeledImage, Selection
from vicreg_jax.data.dataset import Dataset
from vicreg_jax.data.splits import parse_split

_LABEL_SAMPLE = 1000  # images that are looked at to learn whether a split has labels


def open_collection(name: str, *, data_dir: str | None = None, manual_dir: str | None = None) -> Collection:
    """Opens all splits of a dataset; tfds prepares it first if necessary.

    Args:
        name: 'digits' (bundled), 'image_folder', or a name that tfds knows, with or without a config and a version
            ('cifar10', 'imagenette/160px-v2', 'cifar10:3.0.2'). Any name if `manual_dir` holds IDX files.
        data_dir: where tfds keeps prepared datasets; None: `TFDS_DATA_DIR`, or ~/tensorflow_datasets.
        manual_dir: files that you provide: a folder of images, IDX files, or the archives that tfds cannot
            download.

    Raises:
        ValueError: the dataset cannot be opened; the message begins with the argument to change.
    """
    data_dir, manual_dir = (path and os.path.expanduser(path) for path in (data_dir, manual_dir))
    if name == "image_folder":
        from vicreg_jax.data.image_folder import open_image_folder

        return open_image_folder(manual_dir)
    if manual_dir is not None:
        from vicreg_jax.data.idx import missing_idx_files, open_idx_files

        collection = open_idx_files(manual_dir)
        if collection is not None:
            return collection
        if name == "digits":
            raise missing_idx_files(name, manual_dir)
    if name == "digits":
        from vicreg_jax.data.digits import open_digits

        return open_digits()
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
    """Opens one split of a dataset, with its images on square canvases.

    The side of the canvas is `decode_size` if set; otherwise the images' own side if all are squares of one size;
    otherwise 3/2 of `image_size`.

    Args:
        name, data_dir, manual_dir: see `open_collection`.
        split: such as 'train' or 'train[:90%]', see `parse_split`; or 'all', every image once.
        image_size: side of a view, in pixels.
        decode_size: side of the canvas, in pixels.
        max_unreadable: largest fraction of unreadable images that is tolerated; see `Dataset`.

    Raises:
        ValueError: the dataset or the split cannot be opened; the message begins with the argument to change.

    >>> dataset = load_dataset("digits", "train", image_size=8)
    >>> len(dataset), dataset.num_classes, dataset[0]["image"].shape
    (1437, 10, (8, 8, 1))
    """
    collection = open_collection(name, data_dir=data_dir, manual_dir=manual_dir)
    # A split may have two names.
    first_names = {id(images): name for name, images in reversed(list(collection.splits.items()))}
    every_image = "+".join(reversed(first_names.values()))
    wanted = every_image if split == "all" and "all" not in collection.splits else split
    parts = parse_split(wanted, {name: len(images) for name, images in collection.splits.items()})
    source = Selection([(collection.splits[part], indices) for part, indices in parts])
    return Dataset(
        name=name,
        split=split,
        source=source,
        canvas=decode_size or collection.side or math.ceil(1.5 * image_size),
        channels=collection.channels,
        class_names=collection.class_names if _has_labels(source) else None,
        max_unreadable=max_unreadable,
        split_rule=collection.split_rule,
        parts=tuple((first_names[id(collection.splits[part])], indices) for part, indices in parts),
    )


def _has_labels(source: Sequence[LabeledImage]) -> bool:
    """Whether some image of a sample has a label: a split may have none, as STL-10's `unlabelled`."""
    step = max(1, len(source) // _LABEL_SAMPLE)
    return any(source[index][1] != NO_LABEL for index in range(0, len(source), step))
