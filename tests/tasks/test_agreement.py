"""What processes of one run compare of their configs, programs and data."""

import subprocess

import pytest
from PIL import Image

from vicreg_jax import __version__
from vicreg_jax.config import base_config
from vicreg_jax.data import load_dataset
from vicreg_jax.tasks import agreement
from vicreg_jax.tasks.task import Experiment
from vicreg_jax.training.plan import Plan


@pytest.fixture
def compared(monkeypatch):
    """The facts of every comparison."""
    facts = []
    monkeypatch.setattr(agreement, "require_same", facts.append)
    return facts


def test_every_field_but_the_paths_of_this_host_is_compared(compared):
    config = base_config("vicreg")
    agreement.require_same_run(config)
    config.data.data_dir, config.data.manual_dir, config.seed = "here", "there", 3
    config.evaluation.manual_dir = "elsewhere"
    config.data.labels_file = config.evaluation.labels_file = "labels.csv"
    agreement.require_same_run(config)
    first, second = compared
    assert {name for name in first if first[name] != second[name]} == {"config.seed"}
    assert first["config.optim.base_lr"] == config.optim.base_lr
    assert first["version of vicreg_jax"] == __version__
    assert {"version of jax", "version of jaxlib", "git commit", "digest of the package's source"} <= first.keys()


def test_commit_is_that_of_the_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(agreement, "_PROJECT", tmp_path)
    assert agreement._git_commit() is None
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    identity = ("-c", "user.name=x", "-c", "user.email=x")
    subprocess.run(["git", "-C", tmp_path, *identity, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True)
    assert len(agreement._git_commit()) == 40


def test_data_are_compared_by_what_they_are_not_where(compared, tmp_path):
    def splits(place, *files):
        for file in files:
            path = tmp_path / place / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4)).save(path)
        agreement.require_same_data(
            {
                f"data.{split}_split": load_dataset(
                    "image_folder", split, manual_dir=str(tmp_path / place), image_size=4
                )
                for split in ("train", "test")
            }
        )
        return compared[-1]

    files = ("train/a/1.png", "train/a/2.png", "train/b/3.png", "test/a/4.png", "test/b/5.png")
    here, there = splits("here", *files), splits("there", *files)
    renamed = splits("renamed", *files[:-1], "test/b/6.png")
    more = splits("more", *files, "train/c/7.png")
    assert here == there
    assert {name for name in here if here[name] != renamed[name]} == {
        "digest of the file names of config.data.test_split"
    }
    assert {name.partition(" of config")[0] for name in here if here[name] != more[name]} == {
        "number of images",
        "number of classes",
        "class names",
        "digest of the file names",
    }


def test_splits_of_the_evaluation_are_compared_too():
    plan = Plan(total_steps=1, steps_per_epoch=1, batch_size=1, log_every=1, save_every=1)

    def fields(*splits):
        return Experiment(base_config(), None, *splits, plan).splits

    assert fields("many", "many", "few") == {"data.train_split": "many", "data.test_split": "few"}
    assert fields("many", "labeled", "few") == {
        "data.train_split": "many",
        "evaluation.train_split": "labeled",
        "evaluation.test_split": "few",
    }
