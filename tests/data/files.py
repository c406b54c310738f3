"""Encoded images and IDX files for the tests."""

import gzip
import io
import itertools
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def images_file(images: np.ndarray) -> bytes:
    """An IDX file of images."""
    return struct.pack(">IIII", 0x803, *images.shape) + images.astype(np.uint8).tobytes()


def labels_file(labels: np.ndarray) -> bytes:
    """An IDX file of labels."""
    return struct.pack(">II", 0x801, len(labels)) + labels.astype(np.uint8).tobytes()


def masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def tfrecord_file(records) -> bytes:
    """A TFRecord file."""
    parts = []
    for record in records:
        size = struct.pack("<Q", len(record))
        parts += [size, struct.pack("<I", masked_crc32c(size)), record, struct.pack("<I", masked_crc32c(record))]
    return b"".join(parts)


def write_tfrecord_shards(version, records, shards):
    """Makes a dataset that tfds prepared in one ArrayRecord file, in this directory, one in several TFRecord files."""
    path = version / "dataset_info.json"
    info = json.loads(path.read_text().replace("array_record", "tfrecord"))
    [split] = info["splits"]
    bounds = [len(records) * shard // shards for shard in range(shards + 1)]
    split["shardLengths"] = [str(end - start) for start, end in itertools.pairwise(bounds)]
    path.write_text(json.dumps(info))
    for shard, (start, end) in enumerate(itertools.pairwise(bounds)):
        file = f"{info['name']}-{split['name']}.tfrecord-{shard:05}-of-{shards:05}"
        (version / file).write_bytes(tfrecord_file(records[start:end]))


def write_tar(path, members, **options):
    """A tar file of members (name, content); returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_idx(folder, train=12, test=5, shape=(4, 6), seed=0, form="{}-images-idx3-ubyte", labeled=True):
    """Writes a random dataset in MNIST's format; the largest label of the test split is below the training split's.

    Returns:
        Images and labels by prefix ('train', 't10k').
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for prefix, count, classes in (("train", train, 7), ("t10k", test, 3)):
        arrays[prefix] = rng.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % classes
        contents = {form.format(prefix): images_file(arrays[prefix][0])}
        if labeled:
            name = form.format(prefix).replace("images", "labels").replace("idx3", "idx1")
            contents[name] = labels_file(arrays[prefix][1])
        for name, content in contents.items():
            (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return arrays
