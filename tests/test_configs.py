"""Every file of configs/ builds a valid config for every argument, and states what its source states."""

import runpy
from pathlib import Path

import PIL.Image
import pytest

from configs import cifar10, digits, fashion_mnist, finetune, linear
from configs.imagenet import barlow_twins, byol, debiased, lejepa, moco, moco_v1, simclr, simsiam, vicreg, visreg
from vicreg_jax.augment import RECIPES
from vicreg_jax.config import check_config
from vicreg_jax.methods import METHODS
from vicreg_jax.tasks.parts import build_views
from vicreg_jax.tasks.pretrain.build import build, build_method
from vicreg_jax.tasks.registry import table_of

ROOT = Path(__file__).parent.parent / "configs"
LOCOPROP = ["m", "s", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"]
OTHER_TASKS = ("smt_", "locoprop_", "finetune", "linear")  # beginnings of files
# File -> the arguments it accepts, the default first.
ARGUMENTS: dict[str, list[str]] = {
    "cifar10.py": list(METHODS),
    "digits.py": list(METHODS),
    "evaluate.py": [],
    "fashion_mnist.py": [*METHODS, "cpu", *(f"{method},vit" for method in METHODS)],
    "finetune.py": ["1", "10", "100", "digits", "fashion_mnist"],
    "image_folder.py": list(METHODS),
    "imagenet/barlow_twins.py": ["1000", "300"],
    "imagenet/byol.py": ["1000", "300", "100", "40"],
    "imagenet/corinfomax.py": ["100"],
    "imagenet/debiased.py": ["100"],
    "imagenet/lejepa.py": ["100", "vit_tiny_patch14", "vit_small_patch14", "vit_base_patch14"],
    "imagenet/moco.py": ["200", "800"],
    "imagenet/moco_v1.py": ["200"],
    "imagenet/simclr.py": ["1000", "100"],
    "imagenet/simsiam.py": ["100"],
    "imagenet/triplet.py": ["100"],
    "imagenet/vicreg.py": ["1000", "100"],
    "imagenet/visreg.py": ["100"],
    "linear.py": ["imagenet", "digits", "fashion_mnist"],
    "locoprop_fashion_mnist.py": LOCOPROP,
    "locoprop_mnist.py": LOCOPROP,
    "smt_cifar10.py": ["8192", "4096,grayscale,cifar100"],
    "smt_digits.py": [],
    "smt_fashion_mnist.py": ["2048", "8192"],
    "smt_mnist.py": [],
}


def get_config(file, *argument):
    """The config of a file, loaded as the launcher loads it."""
    return runpy.run_path(str(ROOT / file))["get_config"](*argument)


def test_every_file_is_listed():
    assert sorted(str(file.relative_to(ROOT)) for file in ROOT.rglob("*.py")) == sorted(ARGUMENTS)


@pytest.mark.parametrize("file", ARGUMENTS)
def test_config_is_valid_for_every_argument(file):
    default = get_config(file)
    assert default.is_locked
    arguments = ARGUMENTS[file]
    if arguments:
        assert get_config(file, arguments[0]) == default
    for config in (default, *(get_config(file, argument) for argument in arguments[1:])):
        check_config(config, table_of(config))
        if config.task == "pretrain":
            method = build_method(config)
            assert type(method) is METHODS[config.method.name]
            assert (method.predictor is not None) == (config.method.name in ("byol", "simsiam"))


@pytest.mark.parametrize("file", [file for file in ARGUMENTS if not file.startswith((*OTHER_TASKS, "evaluate"))])
def test_argument_selects_the_method(file):
    if file.startswith("imagenet/"):
        name = Path(file).stem.removesuffix("_v1")
        assert {get_config(file, argument).method.name for argument in ARGUMENTS[file]} == {name}
        lengths = [argument for argument in ARGUMENTS[file] if argument.isdigit()]
        assert [get_config(file, epochs).train.epochs for epochs in lengths] == list(map(int, lengths))
    else:
        assert get_config(file).method.name == "vicreg"
        for method in filter(METHODS.get, ARGUMENTS[file]):
            assert get_config(file, method).method.name == method


@pytest.mark.parametrize("file", ARGUMENTS)
def test_header_has_the_facts(file):
    """Command, hardware, time, and either a result or the expected accuracy; the source where it isn't ours."""
    header = runpy.run_path(str(ROOT / file))["__doc__"]
    assert f"\n    python launch.py --config=configs/{file}" in header
    for fact in ("Hardware: ", "Time", "Source: " if file != "fashion_mnist.py" else "Settings: "):
        assert fact in header
    assert any(word in header for word in ("Result", "result", "Expected", "Published"))


@pytest.mark.parametrize(
    ("file", "argument", "message"),
    [
        ("imagenet/byol.py", "7", r"^epochs must be one of 1000, 300, 100, 40; got '7'$"),
        ("imagenet/lejepa.py", "vit_tiny_patch16", r"^argument must be one of 100, vit_.*; got 'vit_tiny_patch16'$"),
        ("imagenet/simsiam.py", "200", r"^epochs must be 100; got '200'$"),
        ("digits.py", "simclrr", r"^method must be one of .*vicreg.*; got 'simclrr' \(did you mean 'simclr'\?\)$"),
        ("fashion_mnist.py", "gpu", r"^method must be one of .*; got 'gpu'"),
        ("fashion_mnist.py", "vicreg,resnet", r"^method must be one of .*; got 'vicreg,resnet'"),
        ("smt_cifar10.py", "8192,gray", "^argument must be a number of atoms, 'grayscale' or 'cifar100'; got 'gray'$"),
        ("smt_fashion_mnist.py", "many", "^atoms must be an integer; got 'many'$"),
        ("finetune.py", "5", r"^argument must be one of 1, 10, 100, digits, fashion_mnist; got '5'$"),
        ("linear.py", "cifar10", r"^dataset must be one of imagenet, digits, fashion_mnist; got 'cifar10'$"),
        ("locoprop_mnist.py", "adamm", r"^method must be one of m, s, .*adam; got 'adamm'"),
    ],
)
def test_unknown_argument(file, argument, message):
    with pytest.raises(ValueError, match=message):
        get_config(file, argument)


def test_digits_can_be_built(tmp_path):
    """Covers optimizer and schedule; on other data the same code runs."""
    for name in ("vicreg", "byol"):
        config = digits.get_config(name)
        config.data.data_dir = str(tmp_path)
        config.train.batch_size, config.mesh.data = 64, 8
        build(config)


@pytest.mark.parametrize("name", METHODS)
def test_own_images_can_be_built_with_every_method(tmp_path, name):
    """The smaller batch that the header advises fits every method too."""
    for index in range(80):
        PIL.Image.new("RGB", (12, 9), (index, 0, 0)).save(tmp_path / f"{index}.png")
    config = get_config("image_folder.py", name)
    config.data.manual_dir, config.mesh.data = str(tmp_path), 8
    config.train.batch_size = 64
    experiment = build(config)
    assert experiment.plan.total_steps == 100
    assert experiment.image_shape == (128, 128, 3)


def test_fields_reach_the_experiment(tmp_path):
    config = digits.get_config()
    config.data.data_dir, config.data.max_unreadable = str(tmp_path), 0.25
    config.train.batch_size, config.train.microbatch_size, config.train.remat = 64, 16, True
    config.checkpoint.every_minutes = 2.5
    experiment = build(config)
    assert (experiment.method.microbatches, experiment.method.backbone.remat) == (4, True)
    assert experiment.plan.save_every_seconds == 150
    assert experiment.plan.total_steps == 22 * 90
    assert experiment.plan.max_skipped == 19  # a hundredth of all updates
    assert experiment.train_data.max_unreadable == experiment.test_data.max_unreadable == 0.25
    config.train.epochs, config.train.microbatch_size = 10, None
    experiment = build(config)
    assert experiment.plan.max_skipped == 10
    assert experiment.method.microbatches == 1


def test_fashion_mnist_has_the_settings_of_cifar10():
    """Each file states them in full; only data, lengths and normalization differ."""
    for name in METHODS:
        ours, theirs = fashion_mnist.get_config(name).to_dict(), cifar10.get_config(name).to_dict()
        for config in (ours, theirs):
            del config["data"], config["augment"]["mean"], config["augment"]["std"], config["train"]["epochs"]
            del config["evaluation"]["every_epochs"]
        assert ours == theirs


def peak(config):
    return config.optim.base_lr * config.train.batch_size / 256


@pytest.mark.parametrize(
    ("percentage", "rates", "dataset"),
    [
        ("1", (0.03, 0.08), "imagenet2012_subset/1pct"),
        ("10", (0.01, 0.1), "imagenet2012_subset/10pct"),
        ("100", (0.01, 0.1), "imagenet2012"),
    ],
)
def test_semi_supervised_settings_are_the_official_ones(percentage, rates, dataset):
    config = finetune.get_config(percentage)
    assert (config.data.name, config.finetune.labels) == (dataset, "all")
    assert (peak(config), config.finetune.head_lr) == rates  # not scaled: the batch is 256
    optim = config.optim
    assert (optim.name, optim.momentum, optim.weight_decay, optim.schedule) == ("sgd", 0.9, 0.0, "cosine")
    assert (optim.warmup_epochs, optim.final_lr_fraction) == (0, 0)
    assert (config.train.batch_size, config.train.epochs) == (256, 20)


def test_linear_evaluation_is_the_official_one():
    config = linear.get_config()
    assert 0.02 in config.linear.learning_rates
    assert (config.optim.name, config.optim.momentum, config.optim.weight_decay) == ("sgd", 0.9, 1e-6)
    assert config.optim.decay_biases
    assert (config.train.batch_size, config.train.epochs) == (256, 100)
    for each in (config, finetune.get_config()):
        view = RECIPES[each.augment.recipe][0]
        assert (view.crop_area, view.interpolation, view.flip_probability) == ((0.08, 1.0), "bilinear", 0.5)
        others = ("jitter", "grayscale", "blur", "solarize")
        assert {getattr(view, f"{name}_probability") for name in others} == {0.0}
        assert each.augment.central_fraction == 0.875


def test_imagenet_is_the_official_recipe():
    """Numbers in the units of the official codes' command lines."""
    config = vicreg.get_config("1000")
    assert peak(config) == pytest.approx(1.6)
    assert (config.method.invariance_weight, config.method.variance_weight, config.method.covariance_weight) == (
        25,
        25,
        1,
    )
    assert peak(vicreg.get_config("100")) == pytest.approx(0.3 * 8)
    config = barlow_twins.get_config("1000")
    assert peak(config) * config.optim.bias_lr_factor == pytest.approx(0.0048 * 2048 / 256)
    config = simclr.get_config("100")
    assert peak(config) == pytest.approx(0.075 * 4096**0.5)
    assert (config.optim.weight_decay, config.method.temperature) == (1e-4, 0.1)
    config = moco.get_config()
    assert (peak(config), config.method.queue_size, config.method.momentum) == (0.03, 65536, 0.999)
    assert (config.method.temperature, config.model.head_dims) == (0.2, (2048, 128))
    config = moco_v1.get_config()
    assert (config.method.temperature, config.model.head_dims) == (0.07, (128,))
    assert config.optim.drop_epochs == (120, 160)
    for epochs, rate in {"40": 0.45, "100": 0.45, "300": 0.3, "1000": 0.2}.items():
        assert peak(byol.get_config(epochs)) == pytest.approx(rate * 16)
    assert byol.get_config("1000").method.momentum == 0.996
    config = simsiam.get_config()
    assert (peak(config), config.optim.weight_decay, config.optim.decay_biases) == (0.1, 1e-4, True)
    assert (config.model.predictor_dims, config.optim.constant_predictor_lr) == ((512, 2048), True)
    for module, counts, size in ((lejepa, (2, 6), 98), (visreg, (4, 6), 96)):
        views = build_views(module.get_config())
        assert [view.image_size for view in views] == [None] * counts[0] + [size] * counts[1]
        assert build_method(module.get_config()).global_views == counts[0]
    config = lejepa.get_config("vit_small_patch14")
    assert (config.optim.name, peak(config), config.optim.weight_decay) == ("adamw", 5e-4, 5e-2)
    config = debiased.get_config()
    assert (config.optim.name, peak(config), config.optim.final_lr_fraction) == ("adam", 1e-3, 1.0)
