"""Writes labeled image files in the formats that the data room reads.

Each writer makes a whole dataset with the split `train` in an empty folder.
"""

import io
import itertools
import json
import struct
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

CLASSES = 1000
SHARD_IMAGES = 1000
TFDS_NAME, TFDS_VERSION = "imagenet2012", "5.1.0"

Item = TypeVar("Item")


class Example(NamedTuple):
    """An image file, its name without a suffix, and its label."""

    name: str
    label: int
    image: bytes


def class_name(label: int) -> str:
    """The folder of a class, in the form of ImageNet's."""
    return f"n{label:08}"


def write_folder(folder: Path, examples: Iterable[Example]) -> None:
    """`train/CLASS/NAME.JPEG`; files that are there stay."""
    for name, label, image in examples:
        path = folder / "train" / class_name(label) / f"{name}.JPEG"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_bytes(image)
            partial.rename(path)


def write_webdataset(folder: Path, examples: Iterable[Example]) -> None:
    """`train-000000.tar`: members `NAME.jpg` and `NAME.cls`."""
    for shard, part in enumerate(_shards(examples)):
        with tarfile.open(folder / f"train-{shard:06}.tar", "w") as archive:
            for name, label, image in part:
                for suffix, content in (("jpg", image), ("cls", b"%d" % label)):
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def write_parquet(folder: Path, examples: Iterable[Example]) -> None:
    """`data/train-00000-of-000NN.parquet` with the columns and the metadata of Hugging Face."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": [class_name(label) for label in range(CLASSES)]},
    }
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    (folder / "data").mkdir()

    def write(path: Path, part: list[Example]) -> None:
        images = [{"bytes": image, "path": f"{name}.JPEG"} for name, _, image in part]
        table = pa.table({"image": images, "label": [example.label for example in part]}, schema=schema)
        pq.write_table(table, path, row_group_size=100, compression="none")

    _write_numbered(folder / "data", "train-{}.parquet", examples, write)


def write_tfrecord(folder: Path, examples: Iterable[Example]) -> None:
    """The directory of tfds with ImageNet as TFRecord, without TensorFlow."""
    write_records(folder, "tfrecord", map(tfds_record, examples))


def write_array_record(folder: Path, examples: Iterable[Example]) -> None:
    """The directory of tfds with ImageNet as ArrayRecord."""
    write_records(folder, "array_record", map(tfds_record, examples))


WRITERS: dict[str, Callable[[Path, Iterable[Example]], None]] = {
    "folder": write_folder,
    "tfrecord": write_tfrecord,
    "webdataset": write_webdataset,
    "parquet": write_parquet,
    "array_record": write_array_record,
}


def tfds_record(example: Example) -> bytes:
    """An example as tfds stores one of ImageNet."""
    from tensorflow_datasets.proto.tf_example_generated_pb2 import Example as Proto

    proto = Proto()
    features = proto.features.feature
    features["image"].bytes_list.value.append(example.image)
    features["label"].int64_list.value.append(example.label)
    features["file_name"].bytes_list.value.append(f"{example.name}.JPEG".encode())
    return proto.SerializeToString(deterministic=True)


def write_records(folder: Path, suffix: str, records: Iterable[bytes], classes: int = CLASSES) -> None:
    """The directory of tfds with ImageNet.

    Args:
        folder: that will hold it.
        suffix: 'tfrecord' or 'array_record'.
        records: of `tfds_record`.
        classes: their number.
    """
    version = folder / TFDS_NAME / TFDS_VERSION
    version.mkdir(parents=True)
    write = {"tfrecord": _write_tfrecord_shard, "array_record": _write_array_record_shard}[suffix]
    lengths = _write_numbered(version, f"{TFDS_NAME}-train.{suffix}-{{}}", records, write)
    _write_description(version, suffix, lengths, classes)


def _write_tfrecord_shard(path: Path, records: list[bytes]) -> None:
    import google_crc32c

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    with path.open("wb") as file:
        for record in records:
            size = struct.pack("<Q", len(record))
            file.write(b"".join([size, masked(size), record, masked(record)]))


def _write_array_record_shard(path: Path, records: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def _write_description(version: Path, suffix: str, lengths: list[int], classes: int) -> None:
    """`dataset_info.json` and `features.json` for shards of these lengths."""
    import tensorflow_datasets as tfds

    size = sum(file.stat().st_size for file in version.iterdir())
    template = tfds.core.ShardedFileTemplate(
        data_dir=version, dataset_name=TFDS_NAME, split="train", filetype_suffix=suffix
    )
    tfds.folder_dataset.write_metadata(
        data_dir=version,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=[class_name(label) for label in range(classes)]),
                "file_name": tfds.features.Text(),
            }
        ),
        split_infos=[
            tfds.core.SplitInfo(name="train", shard_lengths=lengths, num_bytes=size, filename_template=template)
        ],
        check_data=False,  # which takes TensorFlow
    )


def _write_numbered(
    folder: Path, name: str, examples: Iterable[Item], write: Callable[[Path, list[Item]], None]
) -> list[int]:
    """Writes shards, and names them when their number is known; returns their lengths."""
    lengths = []
    for shard, part in enumerate(_shards(examples)):
        write(folder / f"{shard:05}", part)
        lengths.append(len(part))
    for shard in range(len(lengths)):
        (folder / f"{shard:05}").rename(folder / name.format(f"{shard:05}-of-{len(lengths):05}"))
    return lengths


def _shards(examples: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(examples)
    while part := list(itertools.islice(remaining, SHARD_IMAGES)):
        yield part
