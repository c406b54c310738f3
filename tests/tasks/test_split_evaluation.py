import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from vicreg_jax.config import base_config
from vicreg_jax.evaluation import LabeledFeatures
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
