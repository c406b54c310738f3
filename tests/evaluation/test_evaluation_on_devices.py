"""Rows split over the devices of a mesh give what one device does. The file is the worker of its own slow test."""

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import PIL.Image
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.datasets import load_digits

from vicreg_jax.augment import View
from vicreg_jax.config.fields import base_config
from vicreg_jax.data.dataset import Dataset
from vicreg_jax.evaluation import (
    evaluate_features,
    few_label,
    few_label_accuracies,
    fit_linear_probe,
    knn,
    knn_predict,
    linear_probe,
    nearest_neighbors,
)
from vicreg_jax.evaluation.rows import first_rows, split_rows
from vicreg_jax.tasks.pretrain import assessment
from vicreg_jax.tasks.pretrain.build import Preprocessing

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
    """Four classes that overlap; neither 97 nor 41 rows are a multiple of the devices."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 12))
    labels, test_labels = rng.integers(0, 4, 97), rng.integers(0, 4, 41)
    features, test_features = (centers[x] + rng.normal(size=(len(x), 12)) for x in (labels, test_labels))
    return features, labels, test_features, test_labels


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
def test_what_does_not_split_rows_is_refused(spec):
    with pytest.raises(ValueError, match="takes one that splits rows"):
        nearest_neighbors(np.eye(3), np.eye(3), sharding=NamedSharding(split_over(4, 2).mesh, spec))


@pytest.mark.parametrize("sizes", [{}, {"chunk": 16, "bank_chunk": 10}], ids=["whole", "chunks"])
def test_neighbors_and_votes(split, sharding, sizes):
    features, labels, test_features, _ = split
    arguments = {"neighbors": 15, **sizes}
    expected = nearest_neighbors(features, test_features, **arguments)
    found = nearest_neighbors(features, test_features, sharding=sharding, **arguments)
    assert all(x.is_fully_replicated and x.sharding.num_devices == sharding.num_devices for x in found)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)
    np.testing.assert_array_equal(
        knn_predict(features, labels, test_features, num_classes=4, sharding=sharding, **arguments),
        knn_predict(features, labels, test_features, num_classes=4, **arguments),
    )


def test_equal_similarities_go_to_the_smaller_index():
    bank = np.eye(4)[[2, 0, 1, 0, 0, 3, 0, 0, 1, 0, 0]]
    found = nearest_neighbors(bank, 5 * np.eye(4)[:1], neighbors=5, sharding=split_over(4, 2))
    np.testing.assert_array_equal(found.indices, [[1, 3, 4, 6, 7]])


def test_what_fills_up_is_no_neighbor():
    # A neighbor of similarity 0 would come before the real ones, and there are more neighbors than rows.
    found = nearest_neighbors(-np.eye(3), np.ones((2, 3)), neighbors=20, sharding=split_over(4, 2))
    np.testing.assert_array_equal(found.indices, [[0, 1, 2]] * 2)
    assert (np.asarray(found.similarities) < -0.5).all()


def test_the_linear_probe(split, sharding):
    features, labels, test_features, _ = split
    features, test_features = features + 5.0, test_features + 5.0  # rows that fill up are no longer near the mean
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
    np.testing.assert_allclose(actual, expected, atol=1.5 / 41)  # one image may sit on the border


@pytest.mark.usefixtures("usual_compilation")
def test_a_mesh_of_one_device_gives_the_same_bits(split):
    features, labels, test_features, _ = split
    one = split_over(1, 1)
    for expected, actual in (
        [nearest_neighbors(features, test_features, sharding=x) for x in (None, one)],
        [fit_linear_probe(features, labels, num_classes=4, sharding=x) for x in (None, one)],
        [few_label_accuracies(*split, num_classes=4, labels_per_class=(5,), draws=2, sharding=x) for x in (None, one)],
    ):
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_no_device_holds_or_computes_more_than_its_share(split, monkeypatch):
    """Of the whole protocol: what each program is given, and that it nowhere builds the whole array."""
    given = {}

    def watch(module, name):
        program = getattr(module, name)

        def watched(*arguments, **named):
            given[name] = [x.sharding.shard_shape(x.shape) for x in arguments if isinstance(x, jax.Array) and x.ndim]
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
    evaluate_features(*split, num_classes=4, labels_per_class=(5,), draws=2, sharding=split_over(4, 2))
    assert given == {
        "_search_split": [(13, 12), (6, 12)],
        "fit_logistic_regression": [(13, 12), (13,), (13,), (12, 12)],  # the last is the preconditioner's
        "_predict": [(6, 12)],
        "_count_correct": [(2, 3, 12), (3,), (1, 2, 3), (6, 12), (6,)],
    }


def digits(split, rows):
    """scikit-learn's digits as the loader takes them."""
    images, labels = load_digits(return_X_y=True)
    source = []
    for image, label in zip(images[rows].reshape(-1, 8, 8), labels[rows], strict=True):
        buffer = io.BytesIO()
        PIL.Image.fromarray((15 * image).astype(np.uint8)).save(buffer, "png")
        source.append((buffer.getvalue(), int(label)))
    return Dataset("digits", split, source, canvas=8, channels=1, class_names=tuple("0123456789"))


class LinearExperiment(SimpleNamespace):
    """What an assessment needs of an experiment, its network one matrix."""

    def __init__(self, mesh):
        config = base_config()
        config.train.batch_size = 16
        super().__init__(
            config=config,
            mesh=mesh,
            train_data=digits("train", slice(0, 1400)),
            test_data=digits("test", slice(1400, None)),
            preprocessing=Preprocessing(image_size=8, mean=(0.5,), std=(0.3,), central_fraction=1.0),
            views=(View(), View()),
        )

    def features(self):
        def apply(variables, batch):
            images = self.preprocessing.central_view(batch["image"], batch["aspect_ratio"])
            return images.reshape(len(images), -1) @ variables["params"]

        return apply

    def embeddings(self):
        return lambda variables, batch: self.features()({"params": variables[0]["backbone"]}, batch)


def linear_state(seed):
    kernel = np.random.default_rng(seed).normal(size=(64, 48)).astype(np.float32)
    key = np.asarray(jax.random.key_data(jax.random.key(seed)))
    return SimpleNamespace(params={"backbone": kernel}, batch_stats={"backbone": {}}, key=key)


def assess(sharding):
    """What is said of a state, in JSON's types."""
    subject = assessment.Assessment(LinearExperiment(sharding.mesh))
    accuracies, pictures = subject.assess(linear_state(0), linear_state(1))
    grid = pictures["neighbors"]
    found = [grid.neighbors.sum((2, 3, 4)).tolist(), grid.similarities.tolist()]
    return json.loads(json.dumps([accuracies, subject.knn_accuracy(linear_state(0)), *found]))


def test_an_assessment_uses_all_devices_of_the_mesh(monkeypatch):
    used = {}

    def watch(name, result):
        def watched(*arguments, sharding, **named):
            used[name] = sharding.num_devices
            return result

        monkeypatch.setattr(assessment, name, watched)

    watch("knn_accuracy", 0.5)
    watch("evaluate_features", {"knn_accuracy": 0.5})
    watch("nearest_neighbors", knn.Neighbors(np.zeros((8, 5), int), np.ones((8, 5))))
    assess(split_over(4, 2))
    assert used == {"knn_accuracy": 8, "evaluate_features": 8, "nearest_neighbors": 8}


def work(process, port):
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    print("result", json.dumps(assess(split_over(2, 2))))


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
    (accuracies, online, neighbors, similarities), alone = first, assess(split_over(1, 1))
    assert neighbors == alone[2]
    np.testing.assert_allclose(similarities, alone[3], atol=1e-6)
    assert online == pytest.approx(alone[1], abs=1.5 / 397)  # one image may sit on the border
    baselines, baselines_alone = accuracies.pop("baselines"), alone[0].pop("baselines")
    for actual, expected in (
        (accuracies, alone[0]),
        *((baselines[name], baselines_alone[name]) for name in ("raw_pixels", "random_init")),
    ):
        for name in expected:
            assert actual[name] == pytest.approx(expected[name], abs=1.5 / 397)


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]))
