"""Datasets by name."""

import dataclasses
import functools
import logging
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np

from vicreg_jax.data.collection import MAX_PIXELS, NO_LABEL, Collection, LabeledImage, Selection
from vicreg_jax.data.dataset import Dataset
from vicreg_jax.data.inspection import Progress
from vicreg_jax.data.splits import parse_split
from vicreg_jax.data.value_range import ValueRange, few_levels, resolve_value_range, sampled_values

_logger = logging.getLogger(__name__)

_LABEL_SAMPLE = 1000  # images whose labels show whether a split has any


class Source(TypedDict, total=False):
    """The arguments of `open_collection` beside the name."""

    data_dir: str | None
    manual_dir: str | None
    labels_file: str | None
    max_pixels: int
    progress: Progress | None
    cache_dir: str | Path | None


def open_collection(
    name: str,
    *,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    labels_file: str | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
    cache_dir: str | Path | None = None,
) -> Collection:
    """Opens all splits of a dataset; tfds prepares it first if necessary.

    Args:
        name: 'digits' (bundled), 'image_folder', 'webdataset', 'parquet', 'arrays', 'store', or a name that tfds knows,
            with or without a config and a version ('cifar10', 'imagenette/160px-v2', 'cifar10:3.0.2'). Any other
            name if `manual_dir` holds IDX files.
        data_dir: where tfds keeps prepared datasets; None: `TFDS_DATA_DIR`, or ~/tensorflow_datasets.
        manual_dir: files that you provide: a folder of images, of .tar, .parquet or .npy files, an .npz file, a
            prepared store, IDX files, or the archives that tfds cannot download.
        labels_file: of a folder of images, a .csv, .tsv or .json file with its labels; None: subfolders are the labels.
        max_pixels: of an image; a larger one counts as unreadable.
        progress: called with the number of images checked so far, and of those to check, while a folder or Parquet
            files are opened.
        cache_dir: where it is remembered which images of a folder have been checked, and where the records of .tar and
            TFRecord files lie; images of large Parquet files are extracted into it. None: in this process only, and
            large Parquet files are refused.

    Raises:
        ValueError: the dataset cannot be opened; the message begins with the argument to change.
    """
    if labels_file is not None and name != "image_folder":
        raise ValueError(f"labels_file must be None unless name is 'image_folder'; got {labels_file!r}")
    data_dir, manual_dir = (path and os.path.expanduser(path) for path in (data_dir, manual_dir))
    if name == "image_folder":
        from vicreg_jax.data.image_folder import open_image_folder

        return open_image_folder(
            manual_dir, labels_file=labels_file, max_pixels=max_pixels, progress=progress, cache_dir=cache_dir
        )
    if name == "webdataset":
        from vicreg_jax.data.webdataset import open_webdataset

        return open_webdataset(manual_dir, max_pixels=max_pixels, cache_dir=cache_dir)
    if name == "arrays":
        from vicreg_jax.data.arrays import open_arrays

        return open_arrays(manual_dir)
    if name == "store":
        from vicreg_jax.data.store import open_store

        return open_store(manual_dir)
    if name == "parquet":
        from vicreg_jax.data.parquet import open_parquet

        return open_parquet(manual_dir, max_pixels=max_pixels, progress=progress, cache_dir=cache_dir)
    return dataclasses.replace(_open_by_name(name, data_dir, manual_dir, cache_dir), max_pixels=max_pixels)


def open_split(
    collection: Collection,
    name: str,
    split: str,
    *,
    image_size: int,
    decode_size: int | None = None,
    max_unreadable: float = 1.0,
    value_range: tuple[float, float] | str = "auto",
) -> Dataset:
    """One split of an open collection, with its images on square canvases.

    Args:
        collection: of `open_collection`.
        name: of the dataset, for people.
        split, image_size, decode_size, max_unreadable, value_range: see `load_dataset`.

    Raises:
        ValueError: the split or the range is not available; the message begins with the argument to change.
    """
    # A split may have two names.
    first_names = {id(images): name for name, images in reversed(list(collection.splits.items()))}
    every_image = "+".join(reversed(first_names.values()))
    wanted = every_image if split == "all" and "all" not in collection.splits else split
    parts = parse_split(wanted, {name: len(images) for name, images in collection.splits.items()})
    source = Selection([(collection.splits[part], indices) for part, indices in parts])
    found = _resolved(collection, value_range)
    return Dataset(
        name=name,
        split=split,
        source=source,
        canvas=decode_size or collection.side or math.ceil(1.5 * image_size),
        channels=collection.channels,
        class_names=collection.class_names if _has_labels(source) else None,
        max_unreadable=max_unreadable,
        max_pixels=collection.max_pixels,
        value_range=found.bounds,
        split_rule=collection.split_rule,
        edition=collection.edition,
        labels_digest=collection.labels_digest,
        notes=collection.notes,
        warnings=few_levels(found),
        parts=tuple((first_names[id(collection.splits[part])], indices) for part, indices in parts),
    )


def load_dataset(
    name: str,
    split: str,
    *,
    image_size: int,
    decode_size: int | None = None,
    max_unreadable: float = 1.0,
    value_range: tuple[float, float] | str = "auto",
    **source: Unpack[Source],
) -> Dataset:
    """Opens one split of a dataset, with its images on square canvases.

    The side of the canvas is `decode_size` if set; otherwise the images' own side if all are squares of one size;
    otherwise 3/2 of `image_size`. What was left out of a folder, and why, is logged as a warning.

    Args:
        name: see `open_collection`.
        split: such as 'train' or 'train[:90%]', see `parse_split`; or 'all', every image once.
        image_size: side of a view, in pixels.
        decode_size: side of the canvas, in pixels.
        max_unreadable: largest fraction of unreadable images that is tolerated; see `Dataset`.
        value_range: the two values that become 0 and 255 in images of more than 8 bits; 'auto': the percentiles 0.1
            and 99.9 of a sample of all splits; 'dtype': 0 and 65535. Images of 8 bits are taken as they are. A store of
            16-bit images has the two values that it was prepared with.
        source: `data_dir`, `manual_dir`, `labels_file`, `max_pixels`, `progress` and `cache_dir` of `open_collection`.

    Raises:
        ValueError: the dataset or the split cannot be opened; the message begins with the argument to change.

    >>> dataset = load_dataset("digits", "train", image_size=8)
    >>> len(dataset), dataset.num_classes, dataset[0]["image"].shape
    (1437, 10, (8, 8, 1))
    """
    collection = open_collection(name, **source)
    dataset = open_split(
        collection,
        name,
        split,
        image_size=image_size,
        decode_size=decode_size,
        max_unreadable=max_unreadable,
        value_range=value_range,
    )
    for note in dataset.notes + dataset.warnings:
        _logger.warning("%s %s: %s", name, split, note)
    return dataset


def _open_by_name(name: str, data_dir: str | None, manual_dir: str | None, cache_dir: str | Path | None) -> Collection:
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

    return open_tfds(name, data_dir=data_dir, manual_dir=manual_dir, cache_dir=cache_dir)


def _resolved(collection: Collection, value_range: tuple[float, float] | str) -> ValueRange:
    """The range of a collection; that of a store is fixed.

    Raises:
        ValueError: as `resolve_value_range`, or the range is not that of the store.
    """
    fixed = collection.value_range
    if fixed is None:
        return resolve_value_range(_values_of(collection), value_range)
    if value_range != "auto" and value_range != fixed:
        raise ValueError(
            f"value_range must be 'auto' or {fixed}, with which the images were stored; got {value_range!r}"
        )
    return ValueRange(fixed, 0, 0)


@functools.lru_cache(maxsize=1)  # a run opens two splits of a collection
def _values_of(collection: Collection) -> list[np.ndarray]:
    return sampled_values(collection.deep, collection.max_pixels)


def _has_labels(source: Sequence[LabeledImage]) -> bool:
    """Whether some image of a sample has a label: a split may have none, such as STL-10's `unlabelled`."""
    step = max(1, len(source) // _LABEL_SAMPLE)
    for index in range(0, len(source), step):
        with suppress(Exception):  # a damaged record
            if source[index][1] != NO_LABEL:
                return True
    return False
