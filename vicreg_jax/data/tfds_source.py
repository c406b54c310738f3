"""Data sets that tfds knows by name, read by index from ArrayRecord files. No TensorFlow."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

from vicreg_jax.data.builders import Digits, IdxImages
from vicreg_jax.data.builders.idx_images import IdxConfig
from vicreg_jax.data.collection import Collection, Encoded
from vicreg_jax.data.dataset import NO_LABEL
from vicreg_jax.data.idx import find_idx_files
from vicreg_jax.data.prepare import prepare_here, prepare_in_subprocess, quiet
from vicreg_jax.runtime.errors import InputError

_FORMAT = "array_record"
_IN_MEMORY_BYTES = 256 * 2**20  # the largest split whose encoded images are kept in memory


def open_tfds(name: str, *, data_dir: str | None = None, manual_dir: str | None = None) -> Collection:
    """All splits of the data set, prepared now where it has not been.

    IDX files in `manual_dir` are taken for the set's own. Otherwise `manual_dir` is what tfds calls so: where
    the archives lie that it cannot download by itself.

    Raises:
      InputError: an unknown name, a set without images, one prepared in another format, or one that cannot be
        prepared.
    """
    with quiet():
        builder = find_builder(name, data_dir=data_dir, manual_dir=manual_dir)
        if not builder.is_prepared():
            if isinstance(builder, Digits | IdxImages):
                prepare_here(builder)
            else:
                prepare_in_subprocess(name, data_dir=data_dir, manual_dir=manual_dir)
        if not builder.is_prepared():
            raise InputError(
                f"config.data.data_dir: {builder.data_dir} is there but holds no prepared data set; remove it"
            )
        # As the directory describes itself: the builder's code knows nothing of a conversion of formats.
        return _collect(name, tfds.builder_from_directory(builder.data_dir))


def find_builder(name: str, *, data_dir: str | None = None, manual_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """The builder of that name, prepared or not.

    Raises:
      InputError: for an unknown name, or a `manual_dir` that holds nothing for it.
    """
    if manual_dir is not None:
        directory = find_idx_files(manual_dir)
        if directory is not None:
            safe_name = re.sub(r"[^\w.-]", "_", name)
            config = IdxConfig(name=f"{safe_name}-{directory.digest}", directory=directory)
            return IdxImages(config=config, data_dir=data_dir)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise InputError(_unknown(name, manual_dir)) from error
    except Exception as error:  # a config or version that there is not, a malformed name: tfds raises all kinds
        raise InputError(f"config.data.name: got {name!r}, which tfds refuses: {_first_line(error)}") from error
    if manual_dir is not None and not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        raise InputError(
            f"config.data.manual_dir: {manual_dir} has no train-images-idx3-ubyte, plain or .gz, "
            f"and tfds takes nothing else by hand for {name!r}"
        )
    return builder


def _unknown(name: str, manual_dir: str | None) -> str:
    known = ["image_folder", *tfds.list_builders(with_community_datasets=False)]
    close = difflib.get_close_matches(re.split("[/:]", name)[0], known, n=3)
    meant = (
        f"did you mean {' or '.join(close)}?" if close else f"takes image_folder, or one of tfds's {len(known)} names"
    )
    no_files = f" ({manual_dir} has no IDX files either)" if manual_dir is not None else ""
    return f"config.data.name: there is no data set {name!r}{no_files}; {meant}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _collect(name: str, builder: tfds.core.DatasetBuilder) -> Collection:
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if _FORMAT not in formats:
        raise InputError(
            f"config.data.data_dir: {builder.data_dir} is prepared as {', '.join(sorted(formats))}, "
            f"which is not read by index; convert it (this needs tensorflow and apache-beam): "
            f"python -m tensorflow_datasets.scripts.convert_format --dataset_version_dir={builder.data_dir} "
            f"--out_file_format={_FORMAT}"
        )
    image_key, label_key = _feature_keys(name, builder.info.features)
    image = builder.info.features[image_key]
    label = builder.info.features[label_key] if label_key else None
    height, width, channels = image.shape
    if channels not in (1, 3, 4, None) or np.dtype(image.np_dtype) not in (np.uint8, np.uint16):
        raise InputError(
            f"config.data.name: images of {name!r} have {channels} channels of {np.dtype(image.np_dtype)}, "
            f"takes 1, 3 or 4 channels of uint8 or uint16"
        )
    splits = {}
    for split in builder.info.splits:
        records = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES, file_format=_FORMAT
        )
        if builder.info.splits[split].num_bytes <= _IN_MEMORY_BYTES:
            # One by one, a read takes time in proportion to the number of records in its file.
            records = records.__getitems__(range(len(records)))
        splits[split] = _Examples(records, image_key, label_key)
    return Collection(
        splits=splits,
        channels=channels or 3,
        side=height if height == width else None,
        class_names=tuple(label.names) if label else None,
    )


def _feature_keys(name: str, features: Any) -> tuple[str, str | None]:
    """The image and the label among a data set's features."""
    keys = sorted(features.keys()) if isinstance(features, tfds.features.FeaturesDict) else []
    images = [key for key in keys if type(features[key]) is tfds.features.Image]
    labels = [key for key in keys if isinstance(features[key], tfds.features.ClassLabel)]
    if len(images) > 1 and "image" in images:
        images = ["image"]
    if len(images) != 1:
        found = f"several images ({', '.join(images)})" if images else "no image"
        raise InputError(f"config.data.name: {name!r} has {found} in an example ({', '.join(keys)}), takes one")
    if len(labels) > 1:
        labels = [key for key in labels if key == "label"]
    return images[0], labels[0] if labels else None


class _Examples(Sequence):
    """Encoded images and labels of one split, out of records that are `tf.train.Example` messages.

    Only the two fields are looked at; tfds's own decoding would go through all of them.
    """

    def __init__(self, records: Sequence[bytes], image_key: str, label_key: str | None):
        """`records` by index, and the names of the two fields."""
        self._records, self._image_key, self._label_key = records, image_key, label_key

    def __len__(self) -> int:
        """How many images."""
        return len(self._records)

    def __getitem__(self, index: Any) -> Encoded:
        """The encoded image and its label."""
        fields = Example.FromString(self._records[index]).features.feature
        image = fields[self._image_key].bytes_list.value[0]
        return image, fields[self._label_key].int64_list.value[0] if self._label_key else NO_LABEL
