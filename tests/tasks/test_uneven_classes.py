"""Classes that differ in size, or have no training image: what the summary, the table and the report say of them."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from rich.console import Console

from tests.report.page import Page
from vicreg_jax.config import base_config
from vicreg_jax.data import Dataset
from vicreg_jax.evaluation import LabeledFeatures
from vicreg_jax.report import accuracy_table
from vicreg_jax.tasks.features import SplitEvaluation
from vicreg_jax.tasks.tables import show_feature_accuracies

NAMES = ("cat", "dog", "owl")
TRAIN, TEST = np.repeat([0, 1], [16, 4]), np.repeat([0, 1, 2], [12, 2, 2])  # no owl to learn from


@pytest.fixture(scope="module")
def results():
    """The accuracies of features that tell every cat from every dog, and nothing of owls."""
    config = base_config()
    config.evaluation.update({"labels_per_class": (1,), "draws": 1})
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    splits = [
        Dataset("pets", split, [(b"", label) for label in labels], canvas=8, channels=3, class_names=NAMES)
        for split, labels in (("train", TRAIN), ("test", TEST))
    ]
    evaluation = SplitEvaluation(config, mesh, *splits)
    features = np.array([[1, 0.1], [0.1, 1], [1, 0.1]], np.float32)  # an owl looks like a cat
    return evaluation.accuracies(*(LabeledFeatures(features[labels], labels) for labels in (TRAIN, TEST)))


def test_summary(results):
    assert results["unseen_classes"] == ["owl"]
    assert results["majority_accuracy"] == 12 / 16
    for classifier in ("knn", "linear"):
        assert results[f"{classifier}_accuracy"] == 14 / 16
        assert results[f"{classifier}_balanced_accuracy"] == pytest.approx(2 / 3)
    assert json.loads(json.dumps(results)) == results


@pytest.fixture
def show(results, capsys):
    """`show(**entries)`: what the console shows of a summary."""

    def shown(**entries):
        run = {"method": "vicreg", "shared_images": 0}
        show_feature_accuracies(Console(width=80), run | results | {"baselines": {"raw_pixels": results}} | entries)
        return " ".join(capsys.readouterr().out.split())

    return shown


def test_table(show):
    printed = show()
    assert "accuracy on the test split" in printed
    assert printed.count("balanced 0.6667 0.6667") == 2
    assert "most frequent training class, always predicted: 0.7500" in printed
    assert "no training images of owl: its test images count as wrong" in printed
    assert "no training images" not in show(unseen_classes=[])


def test_table_of_even_classes_has_no_balanced_rows(show, results):
    even = {f"{name}_balanced_accuracy": results[f"{name}_accuracy"] + 0.004 for name in ("knn", "linear")}
    printed = show(**even, baselines={"raw_pixels": results | even})
    assert "balanced" not in printed
    assert "always predicted" not in printed


def test_many_unseen_classes_are_counted(show):
    printed = show(unseen_classes=[f"bird{index}" for index in range(12)])
    assert "no training images of 12 classes, bird0, bird1, bird2, ...: their test images count as wrong" in printed


def test_table_says_that_it_is_on_training_images(show):
    assert "accuracy on training images (labels per class)" in show(shared_images=3)


def test_a_large_split_is_said_to_be_learned_from_in_part(show, results):
    sentence = "inear and few labels learn from 128,117 training images, one in 10; kNN takes all"
    trained_on = {"trained_on": {"images": 128_117, "every": 10}}
    assert f"l{sentence}" in show(**trained_on)
    assert f" L{sentence}." in accuracy_table(results | trained_on, {})
    assert "learn from" not in show() + accuracy_table(results, {})


def test_report(results):
    text = Page(accuracy_table({"method": "vicreg", **results}, {})).text
    assert "kNN, balanced" in text
    assert "Linear, balanced" in text
    assert text.count("66.7") == 2
    assert "Always predicting the most frequent training class gives 75.0." in text
    assert "No training images of owl: its test images count as wrong." in text
