import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from vicreg_jax.config import base_config
from vicreg_jax.data import load_dataset
from vicreg_jax.evaluation import FeatureBank, LabeledFeatures
from vicreg_jax.evaluation.features import raw_pixels
from vicreg_jax.evaluation.knn import Neighbors
from vicreg_jax.tasks import features
from vicreg_jax.tasks.features import SplitEvaluation


class Images:
    """A split of black images."""

    class_names = ("cat", "dog")
    num_classes = 2

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"image": np.zeros((4, 4, 1), np.uint8), "aspect_ratio": np.float32(1), "label": index % 2}


@pytest.fixture
def evaluation():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    return SplitEvaluation(base_config(), mesh, Images(), Images())


def test_all_devices_of_the_mesh_are_used(evaluation, monkeypatch):
    used = {}

    def watch(name, result):
        def watched(*arguments, sharding, **named):
            used[name] = sharding.num_devices
            return result

        monkeypatch.setattr(features, name, watched)

    watch("knn_accuracy", 0.5)
    watch("evaluate_features", {"knn_accuracy": 0.5})
    watch("nearest_neighbors", Neighbors(np.zeros((8, 5), int), np.ones((8, 5))))
    split = LabeledFeatures(np.ones((20, 3), np.float32), np.arange(20) % 2)
    assert evaluation.knn_accuracy(split, split) == {"knn_accuracy": 0.5}
    assert evaluation.accuracies(split, split) == {"knn_accuracy": 0.5, "unseen_classes": []}
    assert evaluation.neighbor_grid(split, split).neighbors.shape == (8, 5, 4, 4, 1)
    assert used == {"knn_accuracy": 8, "evaluate_features": 8, "nearest_neighbors": 8}


@pytest.mark.slow
def test_the_features_of_a_large_split_stay_on_the_devices(evaluation, monkeypatch):
    splits = [load_dataset("digits", split, image_size=8) for split in ("train", "test")]
    evaluation = SplitEvaluation(base_config(), evaluation.mesh, *splits)
    on_host = evaluation.raw_pixel_accuracies(100)
    assert "trained_on" not in on_host
    monkeypatch.setattr(features, "LARGE_SPLIT", 800)
    found = evaluation.raw_pixel_accuracies(100)
    assert found["trained_on"] == {"images": 719, "every": 2}
    assert abs(found["knn_accuracy"] - on_host["knn_accuracy"]) < 0.01
    assert on_host["linear_accuracy"] - 0.03 < found["linear_accuracy"] != on_host["linear_accuracy"]
    train, test = evaluation.features(raw_pixels(lambda image, _: image / 255), None)
    assert isinstance(train, FeatureBank)
    assert evaluation.knn_accuracy(train, test)["knn_accuracy"] == pytest.approx(on_host["knn_accuracy"], abs=0.01)
    near = [evaluation.neighbor_grid(each, test).neighbor_labels for each in (train, _as_host(train, splits[0]))]
    assert np.mean(near[0] == near[1]) > 0.9


def _as_host(bank, dataset):
    pixels = np.stack([dataset[index]["image"].ravel() for index in range(len(dataset))])
    return LabeledFeatures(pixels.astype(np.float32), bank.labels)
