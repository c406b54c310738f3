from types import SimpleNamespace

import PIL.Image
import pytest
from rich.console import Console

from vicreg_jax.config import base_config
from vicreg_jax.tasks.run import _describe
from vicreg_jax.tasks.splits import open_splits


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("Train", "Valid"), "splits  train is {root}/Train, test is {root}/Valid\n"),
        (("train",), "no folders train and test (or val): about one image in ten of {root}/train is a test image\n"),
        (("cat", "dog"), "no folders train and test (or val): about one image in ten of {root} is a test image\n"),
    ],
)
def test_the_console_says_which_images_are_the_splits(tmp_path, capsys, folders, says):
    for index, name in enumerate(folders * 2):
        (tmp_path / name).mkdir(exist_ok=True)
        PIL.Image.new("L", (8, 8)).save(tmp_path / name / f"{index}.png")
    config = base_config()
    config.data.update({"name": "image_folder", "manual_dir": str(tmp_path), "image_size": 8})
    train_data, test_data = open_splits(config, None)
    mesh = SimpleNamespace(size=1, shape={"data": 1, "fsdp": 1}, devices=SimpleNamespace(flat=[SimpleNamespace()]))
    mesh.devices.flat[0].device_kind = "cpu"
    experiment = SimpleNamespace(
        config=config,
        mesh=mesh,
        train_data=train_data,
        evaluation_train_data=train_data,
        test_data=test_data,
        is_resident=lambda split: True,
    )
    task = SimpleNamespace(experiment=experiment, describe=lambda shapes: [], name="vicreg", duration="")
    _describe(Console(width=80), task, None)
    assert says.format(root=tmp_path) in capsys.readouterr().out
