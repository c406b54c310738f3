"""The same ten images in every format: the same batches, bit for bit, streamed and resident."""

import hashlib
import io
import itertools
import shutil
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

from tests.data.files import png, write_tar, write_tfrecord_shards
from vicreg_jax.data import load_dataset, open_collection, parquet, train_batches
from vicreg_jax.data.held_out import row_digests
from vicreg_jax.data.prepare_store import StoreFormat, write_store

COUNT, HEIGHT, WIDTH, CLASSES = 10, 9, 12, 3


def encoded(number):
    """A PNG or a JPEG."""
    pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    if number % 2:
        return png(pixels)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "jpeg")
    return buffer.getvalue()


def in_order(names):
    return sorted(names, key=lambda name: hashlib.sha256(str(name).encode()).digest())


# In the order of a folder of images, the one that the other formats are written for.
NAMES = in_order(f"train/{number}.{'png' if number % 2 else 'jpg'}" for number in range(COUNT))
NUMBERS = [int(Path(name).stem) for name in NAMES]
IMAGES = [encoded(number) for number in NUMBERS]
LABELS = [number % CLASSES for number in NUMBERS]


def rows(values):
    """The values in the order of rows that the digests of the rows undo."""
    order = np.argsort(row_digests(COUNT), kind="stable")
    return [value for _, value in sorted(zip(order.tolist(), values, strict=True))]


def image_folder(place, prepared):
    for name, image in [*zip(NAMES, IMAGES, strict=True), ("test/0.png", IMAGES[0])]:
        file = place / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(image)
    lines = [f"{name},{label}" for name, label in zip(NAMES, LABELS, strict=True)]
    (place / "labels.csv").write_text("\n".join(["test/0.png,0", *lines]))
    return {"name": "image_folder", "manual_dir": str(place), "labels_file": str(place / "labels.csv")}


def webdataset(place, prepared):
    keys = in_order(f"{number:04}" for number in range(COUNT))
    members = [
        (f"{key}.{suffix}", content)
        for key, image, label in sorted(zip(keys, IMAGES, LABELS, strict=True))
        for suffix, content in (("jpg", image), ("cls", b"%d" % label))
    ]
    for shard in range(2):
        write_tar(place / f"set-train-{shard}.tar", members[shard * COUNT :][:COUNT])
    write_tar(place / "set-val-0.tar", [("0.png", IMAGES[0]), ("0.cls", b"0")])
    return {"name": "webdataset", "manual_dir": str(place)}


def parquet_in_memory(place, prepared):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": image} for image in rows(IMAGES)]
    table = pa.table({"image": images, "label": rows(LABELS)})
    for shard in range(2):
        pq.write_table(table[shard * 5 :][:5], place / f"train-0000{shard}-of-00002.parquet", row_group_size=2)
    pq.write_table(table[:1], place / "test-00000-of-00001.parquet")
    return {"name": "parquet", "manual_dir": str(place)}


def parquet_extracted(place, prepared):
    return parquet_in_memory(place, prepared) | {"cache_dir": place / "cache"}


def arrays_in_memory(place, prepared):
    pixels = np.stack([np.asarray(PIL.Image.open(io.BytesIO(image))) for image in rows(IMAGES)])
    arrays = {"x_train": pixels, "y_train": rows(LABELS), "x_test": pixels[:1], "y_test": [0]}
    np.savez(place / "set.npz", **arrays)
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
    return {"name": "arrays", "manual_dir": str(place / "set.npz")}


def arrays_on_disk(place, prepared):
    arrays_in_memory(place, prepared)
    return {"name": "arrays", "manual_dir": str(place)}


def tfrecord(place, prepared):
    shutil.copytree(Path(prepared) / "set_of_photos", place / "set_of_photos")
    version = place / "set_of_photos" / "1.0.0"
    next(version.glob("*.array_record*")).unlink()
    examples = []
    for image, label in zip(IMAGES, LABELS, strict=True):
        example = Example()
        example.features.feature["image"].bytes_list.value.append(image)
        example.features.feature["label"].int64_list.value.append(label)
        examples.append(example.SerializeToString())
    write_tfrecord_shards(version, examples, 3)
    return {"name": "set_of_photos", "data_dir": str(place)}


def store(place, prepared):
    (place / "photos").mkdir()
    photos = image_folder(place / "photos", prepared)
    write_store(open_collection(**photos), place / "store", StoreFormat(16, "raw"))
    return {"name": "store", "manual_dir": str(place / "store")}


FORMATS = (
    image_folder,
    webdataset,
    parquet_in_memory,
    parquet_extracted,
    arrays_in_memory,
    arrays_on_disk,
    tfrecord,
    store,
)


@pytest.fixture(params=FORMATS, ids=lambda write: write.__name__)
def dataset(request, tmp_path, prepared, monkeypatch):
    """The training images in a format."""
    if request.param is parquet_extracted:
        monkeypatch.setattr(parquet, "IN_MEMORY_BYTES", 0)
    where = request.param(tmp_path, prepared)
    return load_dataset(where.pop("name"), "train", image_size=8, decode_size=16, **where)


@pytest.fixture(scope="module")
def sharding():
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data"))


def batches(dataset, sharding, **options):
    """Five batches, of three epochs."""
    stream = train_batches(dataset, batch_size=4, seed=3, sharding=sharding, **options)
    return [{key: np.asarray(value) for key, value in batch.items()} for batch in itertools.islice(stream, 5)]


@pytest.fixture(scope="module")
def expected(sharding, tmp_path_factory):
    """The batches of a plain list of the images."""
    from vicreg_jax.data import Dataset

    source = list(zip(IMAGES, LABELS, strict=True))
    return batches(Dataset("list", "train", source, canvas=16, channels=3), sharding)


def assert_expected(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def test_batches_are_the_same_streamed_and_resident(dataset, sharding, expected):
    assert (len(dataset), dataset.channels, dataset.num_classes) == (COUNT, 3, CLASSES)
    assert_expected(batches(dataset, sharding), expected)
    assert_expected(batches(dataset, sharding, resident=True), expected)


@pytest.mark.slow
def test_batches_of_worker_processes_are_the_same(dataset, sharding, expected):
    assert_expected(batches(dataset, sharding, workers=2), expected)
