"""Datasets that tfds knows, read by index from ArrayRecord or TFRecord files, without TensorFlow."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

from vicreg_jax.data.collection import NO_LABEL, Collection, LabeledImage, Selection
from vicreg_jax.data.prepare import prepare_in_subprocess
from vicreg_jax.data.prepared import check_metadata, check_place, check_records, damaged, read_records, versions_there
from vicreg_jax.data.records import Records, edition_of, open_records
from vicreg_jax.data.tfds_builder import find_builder, quiet
from vicreg_jax.data.tfrecord import TFRECORD_VERSION, scan_tfrecord

_ARRAY_RECORD, _TFRECORD = "array_record", "tfrecord"
_IN_MEMORY_BYTES = 256 * 2**20  # largest split whose encoded images are kept in memory


def open_tfds(
    name: str,
    *,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    cache_dir: str | Path | None = None,
) -> Collection:
    """Opens all splits of a dataset; prepares it first if necessary.

    Args:
        name, data_dir, cache_dir: see `vicreg_jax.data.open_collection`.
        manual_dir: directory of the archives that tfds cannot download.

    Raises:
        ValueError: the name is unknown, or the dataset has no images, was prepared in another format, or cannot be
            prepared.
    """
    check_place(name, data_dir)
    with quiet():
        try:
            builder = _prepared_builder(name, data_dir, manual_dir)
        except ValueError as error:
            check_metadata(name, data_dir)
            raise ValueError(f"{error}{versions_there(name, data_dir)}") from error
        return _collect(name, builder, cache_dir)


def _prepared_builder(name: str, data_dir: str | None, manual_dir: str | None) -> tfds.core.DatasetBuilder:
    builder = find_builder(name, data_dir=data_dir, manual_dir=manual_dir)
    if not builder.is_prepared():
        prepare_in_subprocess(name, data_dir=data_dir, manual_dir=manual_dir)
    if not builder.is_prepared():
        raise ValueError(
            f"data_dir must hold complete datasets only; got {str(builder.data_dir)!r}, "
            f"which exists but holds no prepared dataset; remove it"
        )
    # Open the directory as it describes itself: the builder's code does not know of a converted format.
    try:
        return tfds.builder_from_directory(builder.data_dir)
    except Exception as error:  # tfds raises errors of all kinds for missing and damaged descriptions
        raise damaged(os.path.join(builder.data_dir, "features.json"), error) from error


def _collect(name: str, builder: tfds.core.DatasetBuilder, cache_dir: str | Path | None) -> Collection:
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if not formats & {_ARRAY_RECORD, _TFRECORD}:
        raise ValueError(
            f"data_dir must hold datasets in the format {_ARRAY_RECORD} or {_TFRECORD}; got {str(builder.data_dir)!r} "
            f"in the format {', '.join(sorted(formats))}"
        )
    image_key, label_key = _feature_keys(name, builder.info.features)
    image = builder.info.features[image_key]
    label = builder.info.features[label_key] if label_key else None
    height, width, channels = image.shape
    dtype = np.dtype(image.np_dtype)
    if channels not in (1, 3, 4, None) or dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"name must be a dataset of uint8 or uint16 images with 1, 3 or 4 channels; "
            f"got {name!r} with {channels} channels of {dtype}"
        )
    records: dict[str, Sequence[bytes]] = {}
    edition = [builder.info.full_name, *map(_extent, builder.info.splits.values())]
    if _ARRAY_RECORD in formats:
        records = {split: _array_records(builder, split) for split in builder.info.splits}
    else:
        indexed = {split: _tfrecords(builder, split, cache_dir) for split in builder.info.splits}
        edition.append(f"records {edition_of([], list(indexed.values()))}")
        records |= indexed
    splits = {split: _LabeledImages(found, image_key, label_key) for split, found in records.items()}
    return Collection(
        splits=splits,
        channels=channels or 3,
        side=height if height == width else None,
        class_names=tuple(label.names) if label else None,
        edition=", ".join(edition),
        deep=[] if dtype == np.uint8 else _Images(list(splits.values())),
    )


def _array_records(builder: tfds.core.DatasetBuilder, split: str) -> Sequence[bytes]:
    records: Sequence[bytes] = builder.as_data_source(
        split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES, file_format=_ARRAY_RECORD
    )
    info = builder.info.splits[split]
    files = list(map(str, info.filepaths))
    for file, length in zip(files, info.shard_lengths, strict=True):
        check_records(file, length)
    if info.num_bytes <= _IN_MEMORY_BYTES:
        # A single read takes time proportional to the number of records in its file.
        return [record for file in files for record in read_records(file)]
    return records


def _tfrecords(builder: tfds.core.DatasetBuilder, split: str, cache_dir: str | Path | None) -> Records:
    info = builder.info.splits[split]
    files = list(map(str, info.filepaths))
    if any("://" in file for file in files):
        raise ValueError(
            f"data_dir must be a local directory for datasets in the format {_TFRECORD}; got {str(builder.data_dir)!r}"
        )
    records = open_records(
        list(map(Path, files)),
        scan_tfrecord,
        version=TFRECORD_VERSION,
        argument="data_dir",
        cache_dir=cache_dir,
    )
    lengths = np.bincount(records.table["file"], minlength=len(files)).tolist()
    for file, found, length in zip(files, lengths, info.shard_lengths, strict=True):
        if found != length:
            raise damaged(file, f"{found} of {length} records")
    return records


def _extent(info: Any) -> str:
    return f"{info.num_examples} examples of {int(info.num_bytes)} bytes in {info.name}"


def _feature_keys(name: str, features: Any) -> tuple[str, str | None]:
    """The keys of the image and the label among a dataset's features."""
    keys = sorted(features.keys()) if isinstance(features, tfds.features.FeaturesDict) else []
    images = [key for key in keys if type(features[key]) is tfds.features.Image]
    labels = [key for key in keys if isinstance(features[key], tfds.features.ClassLabel)]
    if len(images) > 1 and "image" in images:
        images = ["image"]
    if len(images) != 1:
        found = f"several images ({', '.join(images)})" if images else f"no image among {', '.join(keys)}"
        raise ValueError(f"name must be a dataset with one image per example; got {name!r} with {found}")
    if len(labels) > 1:
        labels = [key for key in labels if key == "label"]
    return images[0], labels[0] if labels else None


class _Images(Sequence):
    """The images of several splits, one after the other, without their labels."""

    def __init__(self, splits: Sequence[Sequence[LabeledImage]]):
        self._images = Selection([(images, range(len(images))) for images in splits])

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        """Image `index`."""
        return self._images[index][0]


class _LabeledImages(Sequence):
    """Encoded images and labels of one split, read from `tf.train.Example` records.

    Parses two features only; the decoding of tfds would parse all of them.
    """

    def __init__(self, records: Sequence[bytes], image_key: str, label_key: str | None):
        self._records, self._image_key, self._label_key = records, image_key, label_key

    def __len__(self) -> int:
        """Number of images."""
        return len(self._records)

    def __getitem__(self, index: Any) -> LabeledImage:
        """The encoded image `index`, and its label."""
        features = Example.FromString(self._records[index]).features.feature
        image = features[self._image_key].bytes_list.value[0]
        return image, features[self._label_key].int64_list.value[0] if self._label_key else NO_LABEL
