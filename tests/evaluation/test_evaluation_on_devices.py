"""Rows split over the devices of a mesh give the results of one device. The slow test runs this file as its worker."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.datasets import load_digits

from vicreg_jax.evaluation import (
    EvaluationSettings,
    evaluate_features,
    extract_features,
    few_label,
    few_label_accuracies,
    fit_linear_probe,
    knn,
    knn_accuracy,
    knn_predict,
    linear_probe,
    nearest_neighbors,
    raw_pixel_features,
)
from vicreg_jax.evaluation.rows import first_rows, split_rows

AXES = ("data", "fsdp")


def split_over(data, fsdp):
    devices = jax.devices()[: data * fsdp]
    mesh = jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)
    return NamedSharding(mesh, P(AXES))


@pytest.fixture(params=[(4, 2), *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((2, 1), (2, 2)))], ids=str)
def sharding(request):
    return split_over(*request.param)


@pytest.fixture(scope="module")
def split():
    """Four overlapping classes; neither 97 nor 41 is a multiple of the number of devices."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 12))
    labels, test_labels = rng.integers(0, 4, 97), rng.integers(0, 4, 41)
    features, test_features = (centers[x] + rng.normal(size=(len(x), 12)) for x in (labels, test_labels))
    return (features, labels), (test_features, test_labels)


@pytest.mark.parametrize("rows", [16, 21, 3])
def test_each_device_holds_its_share_of_the_rows(rows):
    sharding = split_over(4, 2)
    array = np.arange(2.0 * rows, dtype=np.float32).reshape(rows, 2)
    for axis in (0, 1):
        array = array if axis == 0 else array.T
        placed = split_rows(array, sharding, axis)
        share = -(-rows // 8)
        for number, shard in enumerate(sorted(placed.addressable_shards, key=lambda shard: shard.device.id)):
            here = np.take(array, range(number * share, min((number + 1) * share, rows)), axis, mode="clip")
            assert shard.data.shape[axis] == share
            np.testing.assert_array_equal(np.take(shard.data, range(here.shape[axis]), axis), here)
            assert not np.delete(shard.data, range(here.shape[axis]), axis).any()
    whole = first_rows(split_rows(array.T, sharding), rows, sharding)
    assert whole.is_fully_replicated
    np.testing.assert_array_equal(whole, array.T)


@pytest.mark.parametrize("spec", [P(), P(None, AXES), P(AXES, None)])
def test_a_sharding_that_does_not_split_rows_is_rejected(spec):
    with pytest.raises(ValueError, match=r"^sharding must split rows, as PartitionSpec\(axes\) does; got P"):
        nearest_neighbors(np.eye(3), np.eye(3), sharding=NamedSharding(split_over(4, 2).mesh, spec))


@pytest.mark.parametrize("sizes", [{}, {"chunk": 16, "bank_chunk": 10}], ids=["whole", "chunks"])
def test_neighbors_and_votes(split, sharding, sizes):
    (features, labels), (test_features, _) = split
    arguments = {"neighbors": 15, **sizes}
    expected = nearest_neighbors(features, test_features, **arguments)
    found = nearest_neighbors(features, test_features, sharding=sharding, **arguments)
    assert all(x.is_fully_replicated and x.sharding.num_devices == sharding.num_devices for x in found)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)
    np.testing.assert_array_equal(
        knn_predict((features, labels), test_features, num_classes=4, sharding=sharding, **arguments),
        knn_predict((features, labels), test_features, num_classes=4, **arguments),
    )


def test_equal_similarities_go_to_the_smaller_index():
    bank = np.eye(4)[[2, 0, 1, 0, 0, 3, 0, 0, 1, 0, 0]]
    found = nearest_neighbors(bank, 5 * np.eye(4)[:1], neighbors=5, sharding=split_over(4, 2))
    np.testing.assert_array_equal(found.indices, [[1, 3, 4, 6, 7]])


def test_padding_is_no_neighbor():
    # Padding, with similarity 0, would come before the real rows, and there are more neighbors than rows.
    found = nearest_neighbors(-np.eye(3), np.ones((2, 3)), neighbors=20, sharding=split_over(4, 2))
    np.testing.assert_array_equal(found.indices, [[0, 1, 2]] * 2)
    assert (np.asarray(found.similarities) < -0.5).all()


def test_the_linear_probe(split, sharding):
    (features, labels), (test_features, _) = split
    features, test_features = features + 5.0, test_features + 5.0  # far from the zeros of padding rows
    for l2 in (None, 1e-2):
        expected = fit_linear_probe(features, labels, num_classes=4, l2=l2)
        probe = fit_linear_probe(features, labels, num_classes=4, l2=l2, sharding=sharding)
        assert all(x.is_fully_replicated for x in jax.tree.leaves(probe[:2]))
        assert probe.l2 == expected.l2
        predicted = probe.predict(test_features, sharding=sharding)
        assert np.sum(np.asarray(predicted) != np.asarray(expected.predict(test_features))) <= 1
    for actual, wanted in zip(probe.standardizer, expected.standardizer, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5)
    np.testing.assert_allclose(probe.classifier.weights, expected.classifier.weights, atol=2e-2)


def test_few_labels(split, sharding):
    arguments = {"num_classes": 4, "labels_per_class": (1, 5), "draws": 3}
    expected = few_label_accuracies(*split, **arguments)
    actual = few_label_accuracies(*split, **arguments, sharding=sharding)
    np.testing.assert_allclose(actual, expected, atol=1.5 / 41)  # one image may be on the decision boundary


@pytest.mark.slow
@pytest.mark.usefixtures("usual_compilation")
def test_a_mesh_of_one_device_gives_the_same_bits(split):
    (features, labels), (test_features, _) = split
    one = split_over(1, 1)
    for expected, actual in (
        [nearest_neighbors(features, test_features, sharding=x) for x in (None, one)],
        [fit_linear_probe(features, labels, num_classes=4, sharding=x) for x in (None, one)],
        [few_label_accuracies(*split, num_classes=4, labels_per_class=(5,), draws=2, sharding=x) for x in (None, one)],
    ):
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.slow
def test_no_device_holds_or_computes_more_than_its_share(split, monkeypatch):
    """In the whole protocol, programs get shares of the arrays, and none builds a whole array."""
    given = {}

    def watch(module, name):
        program = getattr(module, name)

        def watched(*arguments, **named):
            if name == "_count_correct":  # its other arguments are replicated
                arguments_of_rows = arguments[1:3]
            else:
                arguments_of_rows = [x for x in arguments if not isinstance(x, tuple)]
            given[name] = [
                x.sharding.shard_shape(x.shape)
                for x in jax.tree.leaves(arguments_of_rows)
                if isinstance(x, jax.Array) and x.ndim
            ]
            text = program.lower(*arguments, **named).compile().as_text()
            assert "f32[13,12]" in text or "f32[6,12]" in text
            assert "[97,12]" not in text
            assert "[104,12]" not in text
            return program(*arguments, **named)

        monkeypatch.setattr(module, name, watched)

    watch(knn, "_search_split")
    watch(linear_probe, "fit_logistic_regression")
    watch(linear_probe, "_predict")
    watch(few_label, "_count_correct")
    settings = EvaluationSettings(labels_per_class=(5,), draws=2)
    evaluate_features(*split, settings, num_classes=4, sharding=split_over(4, 2))
    assert given == {
        "_search_split": [(13, 12), (6, 12)],
        "fit_logistic_regression": [(13, 12), (13,), (13,), (12, 12)],  # the last is the preconditioner's
        "_predict": [(6, 12)],
        "_count_correct": [(2, 3, 12), (3,), (1, 2, 3), (6, 12), (6,)],
    }


def evaluate_digits(sharding):
    """Features of digits by a linear network, and everything that evaluation computes of them, as JSON types."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
    kernel = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)
    apply = jax.jit(lambda kernel, batch: batch["image"].reshape(-1, 64) @ kernel)

    def batches(rows, size=256):
        for start in range(rows.start, rows.stop, size):
            used = np.arange(start, start + size)
            mask = used < rows.stop
            used = used[mask].tolist() + [0] * int(np.sum(~mask))
            batch = {
                "image": images[used],
                "aspect_ratio": np.ones(size, np.float32),
                "label": labels[used],
                "mask": mask,
            }
            yield {n: jax.make_array_from_callback(x.shape, sharding, x.__getitem__) for n, x in batch.items()}

    splits = (range(1400), range(1400, len(images)))
    train, test = (extract_features(apply, kernel, batches(rows)) for rows in splits)
    raw_pixels = [raw_pixel_features(batches(rows), lambda image, _: image) for rows in splits]
    settings = EvaluationSettings(labels_per_class=(1, 5), draws=3)
    near = nearest_neighbors(train.features, test.features[::50], neighbors=5, sharding=sharding)
    results = {
        "accuracies": [
            evaluate_features(*split, settings, num_classes=10, sharding=sharding)
            for split in ((train, test), raw_pixels)
        ],
        "knn_accuracy": knn_accuracy(train, test, num_classes=10, sharding=sharding),
        "indices": np.asarray(near.indices).tolist(),
        "similarities": np.asarray(near.similarities).tolist(),
    }
    return json.loads(json.dumps(results))


def work(process, port):
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    print("result", json.dumps(evaluate_digits(split_over(2, 2))))


@pytest.mark.slow
def test_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    commands = [[sys.executable, __file__, str(process), str(port)] for process in range(2)]
    workers = [subprocess.Popen(c, env=os.environ | settings, stdout=subprocess.PIPE, text=True) for c in commands]
    try:
        outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    (first,), (second,) = (
        [json.loads(line.removeprefix("result")) for line in output.splitlines() if line.startswith("result")]
        for output in outputs
    )
    assert first == second
    alone = evaluate_digits(split_over(1, 1))
    assert first["indices"] == alone["indices"]
    np.testing.assert_allclose(first["similarities"], alone["similarities"], atol=1e-6)
    # One image may be on the decision boundary.
    assert first["knn_accuracy"] == pytest.approx(alone["knn_accuracy"], abs=1.5 / 397)
    for actual, expected in zip(first["accuracies"], alone["accuracies"], strict=True):
        for name in expected:
            assert actual[name] == pytest.approx(expected[name], abs=1.5 / 397)


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]))
