"""Pretraining on unlabeled images, evaluation on labeled ones: other splits of the dataset, or another dataset."""

import json
import re
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from rich.console import Console

from tests.runs import launch
from tests.small_encoder import save_photos
from vicreg_jax.config import base_config
from vicreg_jax.data.collection import NO_LABEL, Collection
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks import splits
from vicreg_jax.tasks.pretrain.splits import open_pretrain_splits
from vicreg_jax.tasks.run import _describe
from vicreg_jax.tasks.splits import open_splits

IMAGE = np.zeros((8, 8), np.uint8)


@pytest.fixture
def stl10(monkeypatch):
    """The config of a run on a dataset with STL-10's splits."""
    images = {
        "unlabelled": [(IMAGE, NO_LABEL)] * 2500,
        "train": [(IMAGE, label) for label in (0, 1, 2)] * 4,
        "test": [(IMAGE, label) for label in (0, 1, 2)] * 2,
    }
    collection = Collection(images, channels=3, side=8, class_names=("cat", "dog", "owl"))
    monkeypatch.setattr(splits, "open_collection", lambda name, **_: collection)
    config = base_config()
    config.data.update({"name": "stl10", "image_size": 8, "train_split": "unlabelled"})
    config.evaluation.train_split = "train"
    return config


def opened(config):
    return open_pretrain_splits(config, open_splits)


def described(config, capsys):
    """The lines of the console about the data."""
    splits = opened(config)
    mesh = SimpleNamespace(size=1, shape={"data": 1, "fsdp": 1}, devices=SimpleNamespace(flat=[SimpleNamespace()]))
    mesh.devices.flat[0].device_kind = "cpu"
    experiment = SimpleNamespace(
        config=config,
        mesh=mesh,
        train_data=splits.train,
        evaluation_train_data=splits.evaluation_train,
        test_data=splits.test,
        is_resident=lambda split: True,
    )
    task = SimpleNamespace(experiment=experiment, describe=lambda shapes: [], name="vicreg", duration="")
    _describe(Console(width=200), task, None)
    return capsys.readouterr().out.splitlines()[1:-1]


def test_splits_of_one_dataset(stl10, capsys):
    train, evaluation_train, test = opened(stl10)
    assert [split.split for split in (train, evaluation_train, test)] == ["unlabelled", "train", "test"]
    assert [len(split) for split in (train, evaluation_train, test)] == [2500, 12, 6]
    assert [split.num_classes for split in (train, evaluation_train, test)] == [None, 3, 3]
    assert described(stl10, capsys) == [
        "data    stl10: 2500 training images, 8x8x3, unlabeled, on the devices",
        "        evaluation on stl10: 12 of train and 6 of test, 3 classes",
    ]


def test_without_the_fields_nothing_changes(stl10, capsys):
    stl10.data.train_split, stl10.evaluation.train_split = "train", None
    train, evaluation_train, test = opened(stl10)
    assert train is evaluation_train
    assert (len(train), len(test)) == (12, 6)
    assert described(stl10, capsys) == [
        "data    stl10: 12 training and 6 test images, 8x8x3, 3 classes, on the devices"
    ]
    stl10.evaluation.update({"name": "stl10", "train_split": "train", "test_split": "test[:3]"})
    train, evaluation_train, test = opened(stl10)
    assert train is evaluation_train
    assert len(test) == 3


def test_split_without_labels_has_no_classes(stl10, capsys):
    stl10.evaluation.train_split = None
    assert described(stl10, capsys) == [
        "data    stl10: 2500 training and 6 test images, 8x8x3, 3 classes, training split unlabeled, on the devices"
    ]
    stl10.data.test_split = "unlabelled[2000:]"
    stl10.data.train_split = "unlabelled[:2000]"
    assert described(stl10, capsys) == [
        "data    stl10: 2000 training and 500 test images, 8x8x3, unlabeled, on the devices"
    ]


@pytest.fixture
def folders(tmp_path):
    """The config of a run on unlabeled gray images, evaluated on labeled color photos."""
    (tmp_path / "many").mkdir()
    for index in range(20):
        random = np.random.default_rng(index)
        PIL.Image.fromarray(random.integers(0, 256, (24, 20), np.uint8)).save(tmp_path / "many" / f"{index}.png")
    save_photos(tmp_path / "few")
    config = base_config()
    config.data.update({"name": "image_folder", "image_size": 16, "manual_dir": str(tmp_path / "many")})
    config.evaluation.manual_dir = str(tmp_path / "few")
    return config


def test_another_folder(folders, capsys):
    train, evaluation_train, test = opened(folders)
    assert (len(evaluation_train), len(test), test.class_names) == (4, 2, ("cat", "dog"))
    assert train.num_classes is None
    assert evaluation_train[0]["image"].shape[2] == train.channels == 1
    assert test.shared_images(train) == 0  # although both have a split `test`
    assert "        evaluation on image_folder: 4 of train and 2 of test, 2 classes" in described(folders, capsys)


def test_labels_in_a_file(folders, tmp_path):
    """Of the folder that is trained on, which is unlabeled without them, and of another one."""
    lines = [f"{index},{'even' if index % 2 == 0 else 'odd'}" for index in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    folders.evaluation.manual_dir, folders.evaluation.labels_file = None, str(tmp_path / "labels.csv")
    train, evaluation_train, test = opened(folders)
    assert (train.class_names, evaluation_train.class_names) == (None, ("even", "odd"))
    assert test.shared_images(train) == 0
    folders.data.labels_file = str(tmp_path / "labels.csv")
    assert opened(folders).train.class_names == ("even", "odd")
    folders.evaluation.manual_dir, folders.evaluation.labels_file = str(tmp_path / "few"), None
    train, _, test = opened(folders)
    assert (train.class_names, test.class_names) == (("even", "odd"), ("cat", "dog"))
    folders.evaluation.labels_file = str(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"^config\.evaluation\.labels_file must be a readable file; got .*none"):
        opened(folders)


@pytest.mark.parametrize("value_range", ["auto", (7000, 9000)])  # of a first start, of a resumed run
def test_value_range_is_that_of_the_training_images(folders, tmp_path, value_range):
    for index in range(4):
        pixels = np.random.default_rng(index).integers(7300, 8201, (16, 16), np.uint16)
        PIL.Image.fromarray(pixels).save(tmp_path / "many" / f"deep_{index}.tif")
    folders.data.value_range = value_range
    train, evaluation_train, _ = opened(folders)
    assert 7000 <= train.value_range[0] < train.value_range[1] <= 9000
    assert evaluation_train.value_range is None
    PIL.Image.fromarray(np.full((16, 16), 500, np.uint16)).save(tmp_path / "few" / "train" / "cat" / "deep.tif")
    _, *evaluation = opened(folders)
    assert {split.value_range for split in evaluation} == {train.value_range}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"evaluation.train_split": "label"}, "config.evaluation.train_split must be one of unlabelled, train, test"),
        ({"evaluation.test_split": "label"}, "config.evaluation.test_split must be one of unlabelled, train, test"),
        ({"data.train_split": "label"}, "config.data.train_split must be one of unlabelled, train, test"),
        (
            {"evaluation.test_split": "train[:5]"},
            r"config.evaluation.test_split must share no image with evaluation.train_split='train'; got",
        ),
        (
            {"data.train_split": "unlabelled+test"},
            r"config.evaluation.test_split must share no image with data.train_split='unlabelled\+test'; got 'test', "
            "which shares 6",
        ),
    ],
)
def test_bad_input_names_the_field(stl10, fields, says):
    stl10.update_from_flattened_dict(fields)
    with pytest.raises(InputError, match=f"^{says}"):
        opened(stl10)
    if "which shares" in says:
        stl10.evaluation.allow_overlap = True
        train, _, test = opened(stl10)
        assert test.shared_images(train) == 6


def test_another_folder_that_is_not_there(folders):
    folders.evaluation.manual_dir += "er"
    with pytest.raises(InputError, match=r"^config\.evaluation\.manual_dir must be a folder; got '.*/fewer'"):
        opened(folders)


@pytest.mark.slow
def test_run(folders, quick_environment, tmp_path):
    arguments = (
        f"--config.data.manual_dir={folders.data.manual_dir}",
        f"--config.evaluation.manual_dir={folders.evaluation.manual_dir}",
        "--config.data.image_size=16",
        "--config.model.name=resnet_tiny",
        "--config.model.head_dims=(16, 16)",
        "--config.train.batch_size=8",
        "--config.train.epochs=2",
        "--config.train.precision=float32",
        "--config.evaluation.labels_per_class=(1,)",
        "--config.evaluation.draws=1",
        '--config.evaluation.transfer=("digits",)',
    )
    result = launch(quick_environment, tmp_path / "run", *arguments, config="configs/image_folder.py")
    assert result.returncode == 0, result.stderr
    assert "unlabeled, on the devices" in result.stdout
    assert "evaluation on image_folder: 4 of train and 2 of test, 2 classes" in result.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert re.search("^on digits: kNN 0.*; raw pixels kNN 0.*; random init kNN 0", result.stdout, re.MULTILINE)
    (digits,) = summary["transfer"].values()
    assert (digits["train_images"], digits["test_images"], digits["classes"]) == (1437, 360, 10)
    assert 'id="transfer"' in (tmp_path / "run" / "report.html").read_text()
    assert summary["label_free"]["layer"] == "embeddings"
    assert 10 < summary["label_free"]["images"] < 20  # of the training split
    assert 1 < summary["label_free"]["lidar"] < 20
    for accuracies in (summary, *summary["baselines"].values(), digits, *digits["baselines"].values()):
        assert 0 <= accuracies["linear_accuracy"] <= 1
        assert 0 <= accuracies["knn_accuracy"] <= 1
    assert summary["evaluation"]["manual_dir"] == folders.evaluation.manual_dir
    assert summary["shared_images"] == 0
