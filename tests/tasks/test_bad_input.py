"""Bad config fields are refused in one line that names the field, before anything is compiled."""

import json

import pytest

from vicreg_jax.config import base_config, check_config, differences, from_json, pretrain_table, to_json
from vicreg_jax.methods import METHODS
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.pretrain.build import build, build_method


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


def digits(data_dir, method="vicreg", **fields):
    from configs.digits import get_config

    config = get_config(method)
    config.data.data_dir = data_dir
    config.train.batch_size = 64
    config.mesh.data = 8
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return config


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("data.name", "digitz", r"config\.data\.name.*digitz.*digits"),
        ("data.train_split", "training", r"config\.data\.train_split must .*train.*training"),
        ("data.image_size", 2, r"config\.data\.image_size must be at least 4 .*; got 2"),
        ("data.name", None, r"config\.data\.name must be a string; got None"),
        ("train.batch_size", None, r"config\.train\.batch_size must be an integer of at least 2; got None"),
        ("data.placement", "gpu", r"config\.data\.placement must be one of auto, device, host.*; got 'gpu'"),
        ("augment.recipe", "vicrag", r"config\.augment\.recipe must be one of .*vicrag.*vicreg"),
        (
            "augment.flip_probability",
            1.5,
            r"config\.augment\.flip_probability must be a number from 0 to 1.*; got 1\.5",
        ),
        ("augment.crop_area", (0.5, 0.1), r"config\.augment\.crop_area must be two fractions.*; got \(0\.5, 0\.1\)"),
        ("augment.global_views", 0, r"config\.augment\.global_views must be an integer of at least 1.*; got 0"),
        ("augment.global_views", 1, r"config\.augment\.global_views must be at least 2 without local views; got 1"),
        ("augment.local_views", 2, r"config\.augment\.local_size must be set for local views of 'digits'.*; got None"),
        ("augment.local_size", 4, r"config\.augment\.local_size must be None without local views; got 4"),
        ("augment.mean", (0.1, 0.2, 0.3), r"config\.augment\.mean must be one number, or 1 for images of 1 channel"),
        ("method.name", "vicregg", r"config\.method\.name must be one of vicreg.*; got 'vicregg'"),
        ("model.name", "resnet19", r"config\.model\.name.*resnet19.*resnet18"),
        ("model.stem", "tiny", r"config\.model\.stem must be one of imagenet, small.*; got 'tiny'"),
        ("model.head_dims", (512, 0), r"config\.model\.head_dims must be .*; got \(512, 0\)"),
        ("optim.name", "larss", r"config\.optim\.name.*larss.*lars"),
        ("optim.base_lr", -1.0, r"config\.optim\.base_lr must be a number above 0.*; got -1\.0"),
        ("train.batch_size", 1, r"config\.train\.batch_size must be an integer of at least 2.*; got 1"),
        ("train.batch_size", 100, r"config\.train\.batch_size must be a multiple of the 8 devices.*; got 100"),
        ("train.batch_size", 4096, r"config\.train\.batch_size must be .*1437.*; got 4096"),
        ("train.precision", "float16", r"config\.train\.precision must be one of float32, bfloat16.*; got 'float16'"),
        ("train.microbatch_size", 1, r"config\.train\.microbatch_size must be an integer of at least 2.*; got 1"),
        ("train.microbatch_size", 24, r"config\.train\.microbatch_size must be a divisor of the batch of 64.*; got 24"),
        ("train.microbatch_size", 4, r"config\.train\.microbatch_size must be .* a multiple of the 8 device.*; got 4"),
        (
            "train.microbatch_size",
            128,
            r"config\.train\.microbatch_size must be a divisor of the batch of 64.*; got 128",
        ),
        ("train.on_nonfinite", "ignore", r"config\.train\.on_nonfinite must be one of stop, skip.*; got 'ignore'"),
        ("data.max_unreadable", 1.5, r"config\.data\.max_unreadable must be a number from 0 to 1.*; got 1\.5"),
        (
            "checkpoint.every_minutes",
            -1.0,
            r"config\.checkpoint\.every_minutes must be a number of at least 0.*; got -1\.0",
        ),
        ("logging.profile_steps", (20, 10), r"config\.logging\.profile_steps must be \(\) or two steps.*\(20, 10\)"),
        ("logging.profile_steps", (10, 9999), r"config\.logging\.profile_steps must end at the last step, \d+.*9999"),
        ("mesh.data", 3, r"config\.mesh\.data times fsdp must be the number of devices, 8.*; got data=3, fsdp=1"),
    ],
)
def test_value_that_cannot_be_used(data_dir, field, value, says):
    config = digits(data_dir)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=says) as error:
        build(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "fields", "says"),
    [
        (
            "moco",
            {"method.queue_size": 100, "method.symmetric": False},
            r"method\.queue_size must be .*multiple of .*64.*; got 100",
        ),
        (
            "moco",
            {"method.queue_size": 64, "method.symmetric": True},
            r"method\.queue_size must be .*multiple of .*128.*; got 64",
        ),
        ("moco", {"method.momentum": 1.0}, r"method\.momentum must be .*below 1.*; got 1\.0"),
        (
            "moco",
            {"method.batch_norm_groups": 7},
            r"method\.batch_norm_groups must divide the batch \(or micro-batch\) size of 64; got 7",
        ),
        (
            "moco",
            {"method.batch_norm_groups": 16, "train.microbatch_size": 8},
            r"method\.batch_norm_groups must divide the batch \(or micro-batch\) size of 8; got 16",
        ),
        ("byol", {"method.momentum": -0.1}, r"method\.momentum must be .*; got -0\.1"),
        (
            "byol",
            {"method.variance_weight": -1.0},
            r"method\.variance_weight must be a number of at least 0.*; got -1\.0",
        ),
        ("vicreg", {"method.covariance_weight": -1.0}, r"method\.covariance_weight must be .*; got -1\.0"),
        ("simclr", {"method.temperature": 0.0}, r"method\.temperature must be a number above 0.*; got 0\.0"),
        (
            "simclr",
            {"model.predictor_dims": (8, 128)},
            r"model\.predictor_dims must be \(\), for simclr has no predictor; got \(8, 128\)",
        ),
        ("byol", {"model.predictor_dims": (8, 9)}, r"model\.predictor_dims must end with 128.*; got \(8, 9\)"),
        (
            "byol",
            {"model.shared": ("head",)},
            r"model\.shared must be \('backbone', 'head'\) for byol.*; got \('head',\)",
        ),
        ("vicreg", {"model.shared": ("tail",)}, r"model\.shared must be 'backbone', 'head', both.*; got \('tail',\)"),
        ("vicreg", {"model.second_name": "resnet18"}, r"model\.second_name must be None where.*; got 'resnet18'"),
        (
            "vicreg",
            {"model.shared": ("head",), "model.second_name": "resnet18"},
            r"model\.second_name must have 96 features.*; got 'resnet18' with 768",
        ),
        (
            "vicreg",
            {"model.shared": (), "model.second_name": "resnet19"},
            r"model\.second_name must be one of .*resnet18",
        ),
        (
            "vicreg",
            {"method.name": "simclr"},
            r"method\.name must be chosen by .*; got 'simclr' with the fields of another method",
        ),
        ("vicreg", {"optim.constant_predictor_lr": True}, r"optim\.constant_predictor_lr must be False.*; got True"),
        ("vicreg", {"optim.clip_trust_ratio": True}, r"optim\.clip_trust_ratio must be .*; got True"),
        (
            "vicreg",
            {"optim.schedule": "drops", "optim.drop_epochs": (3, 2)},
            r"optim\.drop_epochs must be epochs above 0 in rising.*; got \(3, 2\)",
        ),
        (
            "vicreg",
            {"optim.drop_epochs": (2, 3)},
            r"optim\.drop_epochs must be \(\) with optim\.schedule='cosine'; got \(2, 3\) \(set",
        ),
        ("vicreg", {"optim.schedule": "wdd"}, r"optim\.schedule must be one of cosine, wsd, drops; got 'wdd'"),
        ("vicreg", {"optim.decay_fraction": 0.0}, r"optim\.decay_fraction must be a number above 0.*; got 0\.0"),
        ("vicreg", {"train.extend": "replann"}, r"train\.extend must be one of replan, .*; got 'replann' \(did you"),
        ("vicreg", {"train.extensions": ((5, 9),)}, r"train\.extensions must be \(step, epochs.*; got \(\(5, 9\),\)"),
        (
            "vicreg",
            {"train.epochs": 9, "train.extensions": ((5, 9, "replan"),)},
            r"train\.epochs must be above 9, the epochs before the last of train\.extensions; got 9",
        ),
        (
            "vicreg",
            {"train.epochs": 9, "train.extensions": ((500, 3, "cosine_from_here"),)},
            r"train\.epochs must be above step=500; got 198",
        ),
    ],
)
def test_method_that_cannot_be_used(data_dir, method, fields, says):
    config = digits(data_dir, method)
    config.update_from_flattened_dict(fields)
    with pytest.raises(InputError, match=r"config\." + says) as error:
        build(config)
    assert "\n" not in str(error.value)


LOCAL = {"augment.local_views": 2, "augment.local_size": 4, "augment.local_crop_area": (0.2, 0.5)}


@pytest.mark.parametrize(
    ("method", "fields", "says"),
    [
        (
            "vicreg",
            {"augment.local_size": 3},
            r"augment\.local_size must be at least 4 for model\.name='resnet_tiny'.*; got 3",
        ),
        (
            "vicreg",
            {"model.name": "vit_tiny_patch4", "augment.local_size": 6},
            r"augment\.local_size must be a multiple of 4, the patches of vit_tiny_patch4; got 6",
        ),
        (
            "triplet",
            {},
            r"augment\.recipe must have two views for triplet, which takes no more; got 'digits' with 4",
        ),
        (
            "vicreg",
            {"model.shared": ("head",)},
            r"model\.shared must be \('backbone', 'head'\) with local or more than two views; got \('head',\)",
        ),
        ("moco", {"augment.global_views": 1}, r"augment\.global_views must be at least 2 for MoCo, .*; got 1"),
        (
            "moco",
            {"augment.global_views": 3, "method.queue_size": 128},
            r"method\.queue_size must be a multiple of 192, .*; got 128",
        ),
    ],
)
def test_views_that_cannot_be_used(data_dir, method, fields, says):
    config = digits(data_dir, method)
    config.update_from_flattened_dict(LOCAL | fields)
    with pytest.raises(InputError, match=r"config\." + says) as error:
        build(config)
    assert "\n" not in str(error.value)


def test_views_reach_the_experiment(data_dir):
    config = digits(data_dir, "lejepa")
    config.update_from_flattened_dict(LOCAL | {"augment.global_views": 3})
    experiment = build(config)
    assert [view.image_size for view in experiment.views] == [None, None, None, 4, 4]
    assert experiment.method.global_views == 3


def test_batch_too_small_for_the_unbiased_covariance(data_dir):
    config = digits(data_dir, train__batch_size=2, method__unbiased_covariance=True)
    with pytest.raises(InputError, match=r"config\.method\.unbiased_covariance must be .* 4.*; got .*"):
        build_method(config)


@pytest.mark.parametrize("name", ["image_folder", "digits"])
@pytest.mark.parametrize("is_there", [False, True])
def test_data_directory_that_is_not_there_or_holds_nothing(data_dir, tmp_path, name, is_there):
    path = tmp_path / "photos"
    if is_there:
        path.mkdir()
    config = digits(data_dir, data__name=name, data__manual_dir=str(path))
    with pytest.raises(InputError, match=r"config\.data\.manual_dir must .*photos"):
        build(config)


def test_config_goes_through_json(data_dir):
    for method in METHODS:
        config = digits(data_dir, method)
        assert from_json(json.loads(json.dumps(to_json(config))), pretrain_table(method)) == config
        check_config(base_config(method), pretrain_table(method))


def test_field_of_another_version_is_named():
    with pytest.raises(InputError, match=r"config\.optim\.nesterov must be a field of this version .*; got True"):
        from_json(to_json(base_config()) | {"optim": {"nesterov": True}}, pretrain_table())


def test_what_may_change_between_two_runs(data_dir):
    ours, theirs = digits(data_dir), digits(data_dir)
    ours.logging.every_steps, ours.mesh.data, ours.evaluation.draws, ours.checkpoint.keep = 3, 4, 1, 7
    ours.train.remat, ours.checkpoint.every_minutes = True, 5.0
    assert differences(to_json(ours), to_json(theirs)) == []
    ours.train.epochs, ours.seed, ours.train.microbatch_size = 41, 5, 16
    assert differences(to_json(ours), to_json(theirs)) == [
        "seed was 0 and is 5",
        f"train.epochs was {theirs.train.epochs} and is 41",
        "train.microbatch_size was None and is 16",
    ]
