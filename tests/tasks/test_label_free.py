"""Metrics without labels of a network: the right images, the right views, the same on any number of devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from vicreg_jax.augment import Preprocessing, View, central_view
from vicreg_jax.config import base_config
from vicreg_jax.data import load_dataset
from vicreg_jax.data.collection import Selection
from vicreg_jax.evaluation import alpha_req, rank_me
from vicreg_jax.tasks.features import SplitEvaluation
from vicreg_jax.tasks.label_free import LabelFree

PREPROCESSING = Preprocessing(image_size=6, mean=(0.5,), std=(0.5,))
VIEWS = (View(crop_area=(0.3, 1.0), jitter_probability=0.0, grayscale_probability=0.0),) * 2


def project(variables, images):
    return images.reshape(len(images), -1) @ variables


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "train", image_size=8)


def metrics_of(network, variables, dataset, devices=1, seed=0):
    config = base_config()
    config.seed = seed
    config.evaluation.label_free_images = 60
    mesh = jax.make_mesh((devices, 1), ("data", "fsdp"), (AxisType.Auto,) * 2, devices=jax.devices()[:devices])
    return network.metrics(SplitEvaluation(config, mesh, dataset, dataset), variables, dataset)


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(0).normal(size=(36, 12)).astype(np.float32)


def test_on_any_number_of_devices(digits, matrix):
    network = LabelFree(project, "features", VIEWS, PREPROCESSING)
    one, three = (metrics_of(network, matrix, digits, devices) for devices in (1, 3))
    assert one.keys() == {"rankme", "lidar", "alpha_req", "layer", "images", "views"}
    assert (one["layer"], one["images"], one["views"]) == ("features", 60, 10)
    for name in ("rankme", "lidar", "alpha_req"):
        assert one[name] == pytest.approx(three[name], rel=1e-4)
    # Of evenly spaced images, as any reader would compute it.
    indices = np.linspace(0, len(digits) - 1, 60).astype(int)
    images = np.stack([digits[int(index)]["image"] for index in indices])
    central = project(matrix, np.asarray(central_view(images, jnp.ones(60), PREPROCESSING)))
    assert one["rankme"] == pytest.approx(rank_me(central), rel=1e-5)
    assert one["alpha_req"] == pytest.approx(alpha_req(central), rel=1e-4)
    assert 1 < one["lidar"] < 12
    assert metrics_of(network, matrix, digits, seed=1)["lidar"] != one["lidar"]


def test_views_are_those_of_image_and_number(digits, matrix):
    """Those of an image are the same beside any others; each view of the recipe draws half of them."""
    seen = []

    def record(variables, images):
        jax.debug.callback(lambda images: seen.append(np.asarray(images)), images)
        return project(variables, images)

    inverted = dataclasses.replace(VIEWS[0], solarize_probability=1.0, solarize_threshold=0.0)
    network = LabelFree(record, "features", (VIEWS[0], inverted), PREPROCESSING)
    for count in (60, 40):
        metrics_of(network, matrix, dataclasses.replace(digits, source=Selection([(digits.source, range(count))])))
    jax.effects_barrier()
    first, _, second, _ = (images.reshape(32, 11, -1) for images in seen)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert len({view.tobytes() for view in first[0]}) == 11
    assert not np.array_equal(first[0, 1], first[1, 1])
    backgrounds = np.median(first, axis=(0, 2))  # of digits it is black
    assert list(np.sign(backgrounds)) == [-1] * 6 + [1] * 5


def test_network_that_ignores_the_image(digits):
    def constant(value, images):
        return jnp.broadcast_to(value, (len(images), 12))

    network = LabelFree(constant, "features", VIEWS, PREPROCESSING)
    found = metrics_of(network, jnp.ones(12), digits)
    assert found["lidar"] == 1
    assert found["rankme"] == pytest.approx(1, abs=1e-4)
    assert found["alpha_req"] is None
    found = metrics_of(network, jnp.full(12, jnp.nan), digits)
    assert [found[name] for name in ("rankme", "lidar", "alpha_req")] == [None] * 3
