"""The same ten images in every format: the same batches, bit for bit, streamed and resident."""

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.data import formats
from vicreg_jax.data import Dataset, load_dataset, train_batches

IMAGES = formats.examples(10)


def extracted_parquet(place, images):
    return formats.parquet(place, images) | {"cache_dir": place / "cache"}


@pytest.fixture(params=(*formats.LOSSLESS, extracted_parquet), ids=lambda write: write.__name__)
def dataset(request, tmp_path, monkeypatch):
    """The training images in a format."""
    monkeypatch.setattr("benchmarks.data.formats.SHARD_IMAGES", 4)
    if request.param is extracted_parquet:
        monkeypatch.setattr("vicreg_jax.data.parquet.IN_MEMORY_BYTES", 0)
    return load_dataset(split="train", image_size=8, decode_size=formats.SIDE, **request.param(tmp_path, IMAGES))


@pytest.fixture(scope="module")
def sharding():
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data"))


def batches(dataset, sharding, **options):
    """Five batches, of three epochs."""
    stream = train_batches(dataset, batch_size=4, seed=3, sharding=sharding, **options)
    return [{key: np.asarray(value) for key, value in batch.items()} for batch in itertools.islice(stream, 5)]


@pytest.fixture(scope="module")
def expected(sharding):
    """The batches of a plain list of the images."""
    source = [(image, label) for _, label, image in IMAGES]
    return batches(Dataset("list", "train", source, canvas=formats.SIDE, channels=3), sharding)


def assert_expected(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def test_batches_are_the_same_streamed_and_resident(dataset, sharding, expected):
    assert (len(dataset), dataset.channels, dataset.num_classes) == (len(IMAGES), 3, formats.CLASSES)
    assert_expected(batches(dataset, sharding), expected)
    assert_expected(batches(dataset, sharding, resident=True), expected)


@pytest.mark.slow
def test_batches_of_worker_processes_are_the_same(dataset, sharding, expected):
    assert_expected(batches(dataset, sharding, workers=2), expected)
