"""Features of a large split stay on the devices: the same neighbors and votes, and a subset by rule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vicreg_jax.evaluation import (
    EvaluationSettings,
    LabeledFeatures,
    evaluate_features,
    extract_bank,
    knn_predict,
    nearest_neighbors,
)

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
IMAGES, DIM, BATCH = 90, 6, 16
RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(IMAGES, DIM)).astype(np.float32)
FEATURES[50:60] = FEATURES[20:30]  # equal similarities
LABELS = RANDOM.integers(0, 4, IMAGES).astype(np.int32)
QUERIES = RANDOM.normal(size=(23, DIM)).astype(np.float32)


def split_over(devices):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    return NamedSharding(mesh, PartitionSpec("data"))


def batches(sharding, labels):
    for start in range(0, IMAGES, BATCH):
        rows = np.arange(start, start + BATCH)
        batch = {
            "image": np.where((rows < IMAGES)[:, None], FEATURES[rows % IMAGES], np.nan),
            "label": np.where(rows < IMAGES, labels[rows % IMAGES], -1),
        }
        yield {key: jax.device_put(value, sharding) for key, value in batch.items()}


def bank_of(devices, labels=LABELS, **options):
    sharding = split_over(devices)
    apply = jax.jit(lambda scale, batch: scale * jnp.nan_to_num(batch["image"]))
    return extract_bank(apply, 2.0, batches(sharding, labels), images=IMAGES, sharding=sharding, **options)


@pytest.mark.parametrize(("devices", "block"), [slow(1, 1), slow(1, 40), slow(8, 1), (8, 40)])
def test_the_same_neighbors_as_on_the_host(devices, block):
    bank = bank_of(devices, block=block)
    unit = (FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)).astype(np.float16)
    found = nearest_neighbors(bank, QUERIES, neighbors=7, chunk=8)
    expected = nearest_neighbors(unit, QUERIES, neighbors=7)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-3)
    # More neighbors than a device has rows in a block, and more than there are.
    everything = nearest_neighbors(bank, QUERIES, neighbors=200)
    np.testing.assert_array_equal(np.sort(everything.indices), np.tile(np.arange(IMAGES), (len(QUERIES), 1)))


@pytest.mark.parametrize("devices", [1, 8])
def test_every_kth_image_is_on_the_host(devices):
    bank = bank_of(devices, max_subset=14, block=2 * BATCH)
    assert bank.every == 7
    np.testing.assert_array_equal(bank.subset.features, 2 * FEATURES[::7])
    np.testing.assert_array_equal(bank.subset.labels, LABELS[::7])
    np.testing.assert_array_equal(bank.labels, LABELS)
    assert bank.features.addressable_shards[0].data.nbytes == 2 * DIM * BATCH * 6 // devices


def test_unlabeled_images_have_no_vote_and_no_place():
    labels = np.where(np.arange(IMAGES) % 3, LABELS, -1)
    bank = bank_of(8, labels, max_subset=30).labeled()
    has_label = labels >= 0
    expected = knn_predict((FEATURES[has_label], labels[has_label]), QUERIES, num_classes=4, neighbors=5)
    np.testing.assert_array_equal(knn_predict(bank, QUERIES, num_classes=4, neighbors=5), expected)
    assert bank.count == 60
    assert not len(bank.subset.labels)  # every third image


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_the_accuracies_of_a_bank(devices):
    bank, test = bank_of(devices, max_subset=50), LabeledFeatures(QUERIES, LABELS[: len(QUERIES)])
    settings = EvaluationSettings(5, 0.07, (1, 2), 2)
    found = evaluate_features(bank, test, settings, num_classes=4, sharding=split_over(devices))
    subset = LabeledFeatures(2 * FEATURES[::2], LABELS[::2])
    expected = evaluate_features(subset, test, settings, num_classes=4, sharding=split_over(devices))
    whole = evaluate_features(LabeledFeatures(FEATURES, LABELS), test, settings, num_classes=4)
    assert found.pop("trained_on") == {"images": 45, "every": 2}
    for key in ("knn_accuracy", "knn_balanced_accuracy", "majority_accuracy"):
        assert found.pop(key) == whole[key]
        del expected[key]
    assert found == expected


def test_features_that_are_not_finite():
    sharding = split_over(1)
    apply = jax.jit(lambda _, batch: batch["image"] / jnp.where(jnp.arange(BATCH) == 1, 0, 1)[:, None])
    bank = extract_bank(apply, None, batches(sharding, LABELS), images=IMAGES, sharding=sharding, max_subset=9)
    with pytest.raises(ValueError, match=r"^train must have finite features; got NaN or infinity$"):
        evaluate_features(bank, LabeledFeatures(QUERIES, LABELS[: len(QUERIES)]), num_classes=4)


def test_nothing_to_extract():
    with pytest.raises(ValueError, match=r"^batches must hold at least one batch; got none$"):
        extract_bank(lambda *_: None, None, [], images=3, sharding=split_over(1))
