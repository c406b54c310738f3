"""What cannot be used is refused in one line that names it, before anything is compiled, and nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vicreg_jax.config import base_config, check_config, differences, from_json, to_json
from vicreg_jax.methods import METHODS
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.pretrain.build import build, build_method

ROOT = Path(__file__).parent.parent


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
        ("data.train_split", "training", r"config\.data.*split.*training.*train"),
        ("data.image_size", 2, r"config\.data\.image_size: got 2, takes at least 4"),
        ("data.placement", "gpu", r"config\.data\.placement: got 'gpu', takes one of auto, device, host"),
        ("augment.recipe", "vicrag", r"config\.augment\.recipe: .*vicrag.*vicreg"),
        ("augment.flip_probability", 1.5, r"config\.augment\.flip_probability: got 1\.5, takes a number from 0 to 1"),
        ("augment.crop_area", (0.5, 0.1), r"config\.augment\.crop_area: got \(0\.5, 0\.1\), takes two fractions"),
        ("augment.mean", (0.1, 0.2, 0.3), r"config\.augment\.mean: got .* for images of 1 channel"),
        ("method.name", "vicregg", r"config\.method\.name: got 'vicregg', takes one of vicreg"),
        ("model.name", "resnet19", r"config\.model\.name.*resnet19.*resnet18"),
        ("model.stem", "tiny", r"config\.model\.stem: got 'tiny', takes one of imagenet, small"),
        ("model.head_dims", (512, 0), r"config\.model\.head_dims: got \(512, 0\), takes"),
        ("optim.name", "larss", r"config\.optim\.name.*larss.*lars"),
        ("optim.base_lr", -1.0, r"config\.optim\.base_lr: got -1\.0, takes a number above 0"),
        ("train.batch_size", 1, r"config\.train\.batch_size: got 1, takes an integer of at least 2"),
        ("train.batch_size", 100, r"config\.train\.batch_size: got 100, takes a multiple of the 8 devices"),
        ("train.batch_size", 4096, r"config\.train\.batch_size: got 4096 .*1437"),
        ("train.precision", "float16", r"config\.train\.precision: got 'float16', takes one of float32, bfloat16"),
        ("train.microbatch_size", 1, r"config\.train\.microbatch_size: got 1, takes an integer of at least 2"),
        ("train.microbatch_size", 24, r"config\.train\.microbatch_size: got 24, takes a divisor of the batch of 64"),
        ("train.microbatch_size", 4, r"config\.train\.microbatch_size: got 4, .* a multiple of the 8 device"),
        ("train.microbatch_size", 128, r"config\.train\.microbatch_size: got 128, takes a divisor of the batch of 64"),
        ("train.on_nonfinite", "ignore", r"config\.train\.on_nonfinite: got 'ignore', takes one of stop, skip"),
        ("data.most_unreadable", 1.5, r"config\.data\.most_unreadable: got 1\.5, takes a number from 0 to 1"),
        (
            "checkpoint.every_minutes",
            -1.0,
            r"config\.checkpoint\.every_minutes: got -1\.0, takes a number of at least 0",
        ),
        ("mesh.data", 3, r"config\.mesh: got data=3, fsdp=1 for 8 device"),
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
            r"method\.queue_size: got 100, .* multiple of 64",
        ),
        (
            "moco",
            {"method.queue_size": 64, "method.symmetric": True},
            r"method\.queue_size: got 64, .* multiple of 128",
        ),
        ("moco", {"method.momentum": 1.0}, r"method\.momentum: got 1\.0, takes a number of at least 0, below 1"),
        (
            "moco",
            {"method.batch_norm_groups": 7},
            r"method\.batch_norm_groups: got 7, takes .* divides the batch \(or micro-batch\), 64",
        ),
        (
            "moco",
            {"method.batch_norm_groups": 16, "train.microbatch_size": 8},
            r"method\.batch_norm_groups: got 16, takes .* divides the batch \(or micro-batch\), 8",
        ),
        ("byol", {"method.momentum": -0.1}, r"method\.momentum: got -0\.1, takes"),
        ("byol", {"method.variance_weight": -1.0}, r"method\.variance_weight: got -1\.0, takes a number of at least 0"),
        ("vicreg", {"method.covariance_weight": -1.0}, r"method\.covariance_weight: got -1\.0, takes"),
        ("simclr", {"method.temperature": 0.0}, r"method\.temperature: got 0\.0, takes a number above 0"),
        ("simclr", {"model.predictor_dims": (8, 128)}, r"model\.predictor_dims: got \(8, 128\), takes \(\) for simclr"),
        ("byol", {"model.predictor_dims": (8, 9)}, r"model\.predictor_dims: got \(8, 9\), takes 128 for the last"),
        ("byol", {"model.shared": ("head",)}, r"model\.shared: got \('head',\), takes \('backbone', 'head'\) for byol"),
        ("vicreg", {"model.shared": ("tail",)}, r"model\.shared: got \('tail',\), takes 'backbone', 'head', both"),
        ("vicreg", {"model.second_name": "resnet18"}, r"model\.second_name: got 'resnet18', takes None where"),
        (
            "vicreg",
            {"model.shared": ("head",), "model.second_name": "resnet18"},
            r"model\.second_name: got 'resnet18' with 768 features, takes one with 96",
        ),
        ("vicreg", {"model.shared": (), "model.second_name": "resnet19"}, r"model\.second_name: .*'resnet18'"),
        ("vicreg", {"method.name": "simclr"}, r"method\.name: got 'simclr' with the fields of another method"),
        ("vicreg", {"optim.constant_predictor_lr": True}, r"optim\.constant_predictor_lr: got True, takes False"),
        ("vicreg", {"optim.clip_trust_ratio": True}, r"optim\.name: clip_trust_ratio is True; taken with lars alone"),
        ("vicreg", {"optim.drop_epochs": (3, 2)}, r"optim\.drop_epochs: got \(3, 2\), takes epochs above 0 in rising"),
    ],
)
def test_method_that_cannot_be_used(data_dir, method, fields, says):
    config = digits(data_dir, method)
    config.update_from_flattened_dict(fields)
    with pytest.raises(InputError, match=r"config\." + says) as error:
        build(config)
    assert "\n" not in str(error.value)


def test_batch_too_small_for_the_unbiased_covariance(data_dir):
    config = digits(data_dir, train__batch_size=2, method__unbiased_covariance=True)
    with pytest.raises(InputError, match=r"config\.method\.unbiased_covariance: got True for a batch of 2, takes .* 4"):
        build_method(config)


@pytest.mark.parametrize("name", ["image_folder", "digits"])
@pytest.mark.parametrize("is_there", [False, True])
def test_data_directory_that_is_not_there_or_holds_nothing(data_dir, tmp_path, name, is_there):
    path = tmp_path / "photos"
    if is_there:
        path.mkdir()
    config = digits(data_dir, data__name=name, data__manual_dir=str(path))
    with pytest.raises(InputError, match=r"config\.data\.manual_dir: .*photos"):
        build(config)


def test_config_goes_through_json(data_dir):
    for method in METHODS:
        config = digits(data_dir, method)
        assert from_json(json.loads(json.dumps(to_json(config)))) == config
    check_config(base_config())


def test_field_of_another_version_is_named():
    with pytest.raises(InputError, match=r"config\.optim\.nesterov: got True"):
        from_json(to_json(base_config()) | {"optim": {"nesterov": True}})


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


def run(*arguments):
    return subprocess.run(
        [sys.executable, "launch.py", *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


DIGITS = "--config=configs/digits.py"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--config.optim.base_lrr=1"],
            "config.optim.base_lrr: there is no such field; did you mean config.optim.base_lr?",
        ),
        (["--config.optin.base_lr=1"], "did you mean config.optim.base_lr?"),
        (["--config.train.batch_size=many"], "config.train.batch_size: got 'many', takes an integer"),
        (["--config.train.batch_size=0.5"], "config.train.batch_size: got '0.5', takes an integer"),
        (["--config.optim=1"], "config.optim: got '1', is a section; takes --config.optim.FIELD=VALUE"),
        (["--config.model.head_dims=(a"], "config.model.head_dims: got ('(a',), takes one or more integers"),
        (["--config.augment.flip_probability=often"], "got 'often', takes a number from 0 to 1"),
        (["--config.task=pretrian"], "config.task: got 'pretrian', takes one of pretrain"),
        (["--confg.seed=1"], "confg.seed"),
        (["train"], "got 'train', takes --config=FILE"),
    ],
)
def test_command_line_that_cannot_be_used(tmp_path, arguments, says):
    result = run(DIGITS, f"--workdir={tmp_path / 'run'}", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--config: is missing"),
        ([DIGITS], "--workdir: is missing"),
        (["--config=configs/nothing.py", "--workdir=x"], "--config: got 'configs/nothing.py'"),
        (["--config=configs/imagenet/byol.py:10", "--workdir=x"], "epochs must be one of 1000, 300, 100, 40; got '10'"),
        (["--config", "configs/nothing.py", "--workdir=x"], "--config: got 'configs/nothing.py'"),
        (["--config=README.md", "--workdir=x"], "--config: got 'README.md', whose file fails: SyntaxError"),
        ([DIGITS + ":simclrr", "--workdir=x"], "config.method.name: got 'simclrr', takes one of vicreg, "),
        (
            ["--config=configs/image_folder.py:small", "--workdir=x"],
            "takes configs/image_folder.py without an argument",
        ),
        (
            [DIGITS, "--workdir=s3://bucket/run"],
            "--workdir: got 's3://bucket/run', takes a directory or a gs:// address",
        ),
        ([DIGITS, "--workdir=x", "--num_processes=2"], "--process_id: are given all three, or none"),
        ([DIGITS, "--workdir=/proc/run"], "--workdir: got '/proc/run', takes a directory that can be written"),
        (["--config.seed=1", DIGITS, "--workdir=x"], "--config.seed: stands before --config=FILE"),
    ],
)
def test_what_is_missing_is_named(arguments, says):
    result = run(*arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_run_of_another_config_is_refused_and_left_as_it_is(tmp_path):
    fields = to_json(base_config()) | {"versions": {}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "metrics.jsonl").write_text("")
    before = (tmp_path / "config.json").read_bytes()
    result = run(DIGITS, f"--workdir={tmp_path}")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "holds a run of another config" in result.stderr
    assert "model.name was 'resnet50' and is 'resnet_tiny'" in result.stderr
    assert "logging" not in result.stderr
    assert (tmp_path / "config.json").read_bytes() == before
