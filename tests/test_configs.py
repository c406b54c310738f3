"""Every config of every method can be built, and says what its source says."""

import pytest

from configs import cifar10, digits, fashion_mnist, image_folder, imagenet
from vicreg_jax.config.fields import check_config
from vicreg_jax.methods import METHODS
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.pretrain.build import build, build_method

LENGTHS = ("vicreg,1000", "vicreg,100", "barlow_twins,300", "simclr,100", "moco,800", "moco_v1", "byol,40", "byol,100")
CONFIGS = [
    *[(file, name) for file in (cifar10, digits, fashion_mnist, imagenet) for name in METHODS],
    *[(imagenet, argument) for argument in LENGTHS],
    (fashion_mnist, "cpu"),
]


@pytest.mark.parametrize(("file", "argument"), CONFIGS, ids=lambda value: getattr(value, "__name__", value))
def test_config_is_one_that_can_be_used(file, argument):
    config = file.get_config(argument)
    check_config(config)
    method = build_method(config)
    assert type(method) is METHODS[config.method.name]
    assert (method.predictor is not None) == (config.method.name in ("byol", "simsiam"))


def test_default_is_vicreg():
    for file in (cifar10, digits, fashion_mnist, image_folder, imagenet):
        assert file.get_config().method.name == "vicreg"


def test_digits_of_every_method_can_be_built(tmp_path):
    """With the optimizer and the schedule; on other data the same code runs."""
    for name in METHODS:
        config = digits.get_config(name)
        config.data.data_dir = str(tmp_path)
        config.train.batch_size, config.mesh.data = 64, 8
        build(config)


def test_fields_reach_what_they_are_about(tmp_path):
    config = digits.get_config()
    config.data.data_dir, config.data.most_unreadable = str(tmp_path), 0.25
    config.train.batch_size, config.train.microbatch_size, config.train.remat = 64, 16, True
    config.checkpoint.every_minutes = 2.5
    experiment = build(config)
    assert (experiment.method.microbatches, experiment.method.backbone.remat) == (4, True)
    assert experiment.plan.save_every_seconds == 150
    assert experiment.plan.total_steps == 22 * 90
    assert experiment.plan.most_skipped == 19  # a hundredth of all updates
    assert experiment.train_data.most_unreadable == experiment.test_data.most_unreadable == 0.25
    config.train.epochs, config.train.microbatch_size = 10, None
    experiment = build(config)
    assert experiment.plan.most_skipped == 10
    assert experiment.method.microbatches == 1


def peak(config):
    return config.optim.base_lr * config.train.batch_size / 256


def test_imagenet_is_the_official_recipe():
    """Numbers as the official codes' command lines have them, in their own units."""
    config = imagenet.get_config("barlow_twins")
    assert peak(config) * config.optim.bias_lr_factor == pytest.approx(0.0048 * 2048 / 256)
    config = imagenet.get_config("simclr,100")
    assert peak(config) == pytest.approx(0.075 * 4096**0.5)
    assert (config.optim.weight_decay, config.method.temperature) == (1e-4, 0.1)
    config = imagenet.get_config("moco")
    assert (peak(config), config.method.queue_size, config.method.momentum) == (0.03, 65536, 0.999)
    assert (config.method.temperature, config.model.head_dims) == (0.2, (2048, 128))
    config = imagenet.get_config("moco_v1")
    assert (config.method.temperature, config.model.head_dims) == (0.07, (128,))
    assert config.optim.drop_epochs == (120, 160)
    rates = {"byol,40": 0.45, "byol,100": 0.45, "byol,300": 0.3, "byol,1000": 0.2}
    for argument, rate in rates.items():
        assert peak(imagenet.get_config(argument)) == pytest.approx(rate * 16)
    assert imagenet.get_config("byol,1000").method.momentum == 0.996
    config = imagenet.get_config("simsiam")
    assert (peak(config), config.optim.weight_decay, config.optim.decay_biases) == (0.1, 1e-4, True)
    assert (config.model.predictor_dims, config.optim.constant_predictor_lr) == ((512, 2048), True)
    config = imagenet.get_config("debiased")
    assert (config.optim.name, peak(config), config.optim.final_lr_fraction) == ("adam", 1e-3, 1.0)


@pytest.mark.parametrize("argument", ["byol,10", "byole", "moco_v2"])
def test_argument_that_imagenet_does_not_take(argument):
    with pytest.raises(InputError, match=rf"got the argument '{argument}', takes"):
        imagenet.get_config(argument)
