"""Bad input of the tasks `finetune` and `linear` is one line that names the field, before anything is compiled."""

import PIL.Image
import pytest

from configs import finetune, linear
from tests.small_encoder import save_photos
from vicreg_jax.config import FINETUNE, LINEAR
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.supervised.build import build
from vicreg_jax.tasks.supervised.finetune import Finetune


def build_with(configs, table, **changes):
    config = configs.get_config("digits")
    config.update_from_flattened_dict({"mesh.data": 8, "train.batch_size": 48} | changes)
    return build(config, table)


@pytest.mark.parametrize(
    ("configs", "changes", "says"),
    [
        (
            finetune,
            {"finetune.labels": "0.1%"},
            r"config\.finetune\.labels must leave every class an image; got '0\.1%'",
        ),
        (
            finetune,
            {"finetune.labels": "10 percent"},
            r"config\.finetune\.labels must be all, a percentage .*'10 percent'",
        ),
        (finetune, {"finetune.labels": "1 per class"}, r"config\.train\.batch_size must be at most 10, .*; got 48"),
        (finetune, {"finetune.head_lr": 0.0}, r"config\.finetune\.head_lr must be a number above 0; got 0\.0"),
        (finetune, {"train.batch_size": 50}, r"config\.train\.batch_size must be a multiple of the 8 devices; got 50"),
        (finetune, {"method.name": "linear"}, r"config\.method\.name must be one of finetune; got 'linear'"),
        (
            finetune,
            {"augment.recipe": "supervise"},
            r"config\.augment\.recipe must be one of .*\(did you mean 'supervised'",
        ),
        (finetune, {"optim.name": "sdg"}, r"config\.optim\.name must be one of .*; got 'sdg' \(did you mean 'sgd'\?\)"),
        (linear, {"linear.learning_rates": ()}, r"config\.linear\.learning_rates must be one or more numbers above 0"),
        (linear, {"linear.learning_rates": (0.1, 0)}, r"config\.linear\.learning_rates must be one or more numbers"),
        (
            linear,
            {"linear.validation_fraction": 0.0},
            r"config\.linear\.validation_fraction must be above 0 to choose one of the 4",
        ),
        (
            linear,
            {"linear.validation_fraction": 1e-5},
            r"config\.linear\.validation_fraction must leave images in both",
        ),
        (
            linear,
            {"linear.validation_fraction": 1.0},
            r"config\.linear\.validation_fraction must be a number from 0 to below",
        ),
    ],
)
def test_value_that_cannot_be_used(configs, changes, says):
    with pytest.raises(InputError, match=says) as error:
        build_with(configs, FINETUNE if configs is finetune else LINEAR, **changes)
    assert "\n" not in str(error.value)


def folder_config(folder, **changes):
    config = finetune.get_config("digits")
    photos = {"data.name": "image_folder", "data.manual_dir": str(folder), "data.image_size": 16}
    config.update_from_flattened_dict(photos | {"mesh.data": 8, "train.batch_size": 8} | changes)
    return config


def test_unlabeled_images(tmp_path):
    for index in range(20):
        PIL.Image.new("L", (8, 8), index).save(tmp_path / f"{index}.png")
    with pytest.raises(
        InputError, match=r"config\.data\.train_split must be a split with labels for task='finetune'; .*"
    ):
        build(folder_config(tmp_path), FINETUNE)


def test_names_that_are_not_in_the_split(tmp_path):
    save_photos(tmp_path / "photos")
    names = tmp_path / "names.txt"
    names.write_text("1.png\ncat/7.png\ndog/5.png\ndog/1.png\n")
    config = folder_config(tmp_path / "photos", **{"finetune.labels": str(names)})
    with pytest.raises(InputError, match=r"config\.finetune\.labels must be .*, where 2 of 4 names .* 'cat/7\.png'"):
        build(config, FINETUNE)


@pytest.mark.parametrize("changes", [{"model.name": "resnet18"}, {"model.width": 2.0}, {"model.init_from": "nowhere"}])
def test_weights_that_do_not_fit(encoder_export, changes):
    config = finetune.get_config("digits")
    small = {"data.image_size": 16, "model.width": 0.25, "model.init_from": encoder_export}
    config.update_from_flattened_dict(small | {"mesh.data": 8, "train.batch_size": 48} | changes)
    task = Finetune(build(config, FINETUNE))
    with pytest.raises(InputError, match=r"^config\.model\.init_from must ") as error:
        task.weights()
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def encoder_export(tmp_path_factory):
    from tests.small_encoder import make_encoder

    return str(make_encoder().export(tmp_path_factory.mktemp("encoder") / "export"))
