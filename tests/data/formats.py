"""The same labeled images in every format, in the same order.

A writer takes an empty directory, and images in the order of `examples`. It returns the arguments of `open_collection`.
The split `train` holds all images.
"""

import hashlib
import io

import numpy as np
import PIL.Image
import pytest

from benchmarks.data.formats import TFDS_NAME, Example, tfds_record, write_records
from tests.data.files import png, write_tar
from vicreg_jax.data import open_collection
from vicreg_jax.data.held_out import row_digests
from vicreg_jax.data.prepare_store import StoreFormat, write_store

HEIGHT, WIDTH, SIDE, CLASSES = 9, 12, 24, 3


def examples(count):
    """PNG and JPEG files of one size, in the order of a folder of images."""
    made = {}
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        name = f"train/{number % CLASSES}/{number}.{'png' if number % 2 else 'jpg'}"
        made[name] = Example(name, number % CLASSES, png(pixels) if number % 2 else _jpeg(pixels))
    return [made[name] for name in _by_digest(made)]


def image_folder(place, images):
    for name, _, image in [*images, Example("test/0/0.png", 0, images[0].image)]:
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
    return {"name": "image_folder", "manual_dir": str(place)}


def labels_file(place, images):
    lines = [f"{name},{label}" for name, label, _ in images]
    (place / "labels.csv").write_text("\n".join(["test/0/0.png,0", *lines]))
    return image_folder(place, images) | {"labels_file": str(place / "labels.csv")}


def webdataset(place, images):
    keys = _by_digest(f"{number:04}" for number in range(len(images)))
    members = [
        (f"{key}.{suffix}", content)
        for key, (_, label, image) in sorted(zip(keys, images, strict=True))
        for suffix, content in (("jpg", image), ("cls", b"%d" % label))
    ]
    for shard in range(2):
        write_tar(place / f"set-train-{shard}.tar", members[shard * len(images) :][: len(images)])
    write_tar(place / "set-val-0.tar", [("0.png", images[0].image), ("0.cls", b"0")])
    return {"name": "webdataset", "manual_dir": str(place)}


def parquet(place, images):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = _in_rows(images)
    table = pa.table({"image": [{"bytes": row.image} for row in rows], "label": [row.label for row in rows]})
    half = len(rows) // 2
    for shard, part in enumerate((table[:half], table[half:])):
        pq.write_table(part, place / f"train-0000{shard}-of-00002.parquet", row_group_size=2)
    pq.write_table(table[:1], place / "test-00000-of-00001.parquet")
    return {"name": "parquet", "manual_dir": str(place)}


def npz(place, images):
    np.savez(place / "set.npz", **_arrays(images))
    return {"name": "arrays", "manual_dir": str(place / "set.npz")}


def npy(place, images):
    for name, array in _arrays(images).items():
        np.save(place / f"{name}.npy", array)
    return {"name": "arrays", "manual_dir": str(place)}


def tfrecord(place, images):
    write_records(place, "tfrecord", map(tfds_record, images), classes=CLASSES)
    return {"name": TFDS_NAME, "data_dir": str(place)}


def array_record(place, images):
    write_records(place, "array_record", map(tfds_record, images), classes=CLASSES)
    return {"name": TFDS_NAME, "data_dir": str(place)}


def raw_store(place, images):
    return _store(place, images, "raw")


def jpeg_store(place, images):
    """Its pixels are close to those of the images."""
    return _store(place, images, "jpeg")


LOSSLESS = (image_folder, labels_file, webdataset, parquet, npz, npy, tfrecord, array_record, raw_store)


def _store(place, images, encoding):
    (place / "photos").mkdir()
    write_store(open_collection(**image_folder(place / "photos", images)), place / "store", StoreFormat(SIDE, encoding))
    return {"name": "store", "manual_dir": str(place / "store")}


def _arrays(images):
    rows = _in_rows(images)
    pixels = np.stack([np.asarray(PIL.Image.open(io.BytesIO(row.image))) for row in rows])
    return {"x_train": pixels, "y_train": [row.label for row in rows], "x_test": pixels[:1], "y_test": [0]}


def _jpeg(pixels):
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "jpeg")
    return buffer.getvalue()


def _by_digest(names):
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def _in_rows(images):
    """The images in the order of rows that the digests of the rows undo."""
    order = np.argsort(row_digests(len(images)), kind="stable")
    return [images[place] for place in np.argsort(order)]
