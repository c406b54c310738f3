"""The command line: bad input is refused in one line that names it, and nothing is lost; help and printed configs."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vicreg_jax import cli
from vicreg_jax.config import base_config, flatten, pretrain_table, to_json
from vicreg_jax.runtime.workdir import write_config

ROOT = Path(__file__).parent.parent
DIGITS = "--config=configs/digits.py"


@pytest.fixture
def run(monkeypatch, capsys):
    """`run(*arguments) -> (exit code, stdout, stderr)` of the command line in this process; JAX is not restarted."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cli, "_start_jax", lambda flags: None)
    handler = signal.getsignal(signal.SIGTERM)

    def main(*arguments):
        code = cli.main(["launch.py", *arguments])
        return code, *capsys.readouterr()

    yield main
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--config.optim.base_lrr=1"],
            "config.optim.base_lrr must be a field; got no such field (did you mean config.optim.base_lr?)",
        ),
        (["--config.model.names=x"], "(did you mean config.model.name?)"),
        (["--config.optin.base_lr=1"], "(did you mean config.optim.base_lr?)"),
        (["--config.train.batch_size=many"], "config.train.batch_size must be an integer of at least 2; got 'many'"),
        (["--config.train.batch_size=0.5"], "config.train.batch_size must be an integer of at least 2; got '0.5'"),
        (["--config.optim=1"], "config.optim must be set field by field, --config.optim.FIELD=VALUE; got all of it"),
        (["--config.model.head_dims=(a"], "config.model.head_dims must be one or more integers"),
        (["--config.augment.flip_probability=often"], "must be a number from 0 to 1, or None; got 'often'"),
        (["--config.seed=1", "--config.seed=one"], "config.seed must be an integer from 0 to 4294967295; got 'one'"),
        (["--config.seed=one", "--config.seed=1"], "config.seed must be an integer from 0 to 4294967295; got 'one'"),
        (["--config.seed", "--config.task=smt"], "config.seed must be an integer from 0 to 4294967295; got no value"),
        (["--config.train.batch_size=None"], "config.train.batch_size must be an integer of at least 2; got 'None'"),
        (["--config.optim.decay_biases=maybe"], "config.optim.decay_biases must be True or False; got 'maybe'"),
        (["--config.data.manual_dir"], "config.data.manual_dir must be a string, or None; got no value"),
        (["--noconfig.data.name"], "--noconfig.data.name must be an override of a bool; got '--noconfig.data.name'"),
        (
            ["--config.task=pretrian"],
            "config.task must be one of pretrain, linear, finetune, evaluate, embed, export, smt, locoprop; "
            "got 'pretrian'",
        ),
        (["--confg.seed=1"], "confg.seed"),
        (["train"], "got 'train'"),
    ],
)
def test_bad_override(run, tmp_path, arguments, says):
    code, _, error = run(DIGITS, f"--workdir={tmp_path / 'run'}", *arguments)
    assert code == 2
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--config must be given"),
        ([DIGITS], "--workdir must be given"),
        (["--config=configs/nothing.py", "--workdir=x"], "--config must be a file .*; got 'configs/nothing.py'"),
        (["--config", "configs/nothing.py", "--workdir=x"], "--config must be a file .*; got 'configs/nothing.py'"),
        (["--config=configs/imagenet/byol.py:10", "--workdir=x"], "epochs must be one of 1000, 300, 100, 40; got '10'"),
        (["--config=README.md", "--workdir=x"], r"--config must be a file that loads; got 'README.md' \(SyntaxError"),
        ([DIGITS + ":simclrr", "--workdir=x"], "method must be one of vicreg, .*; got 'simclrr'"),
        (["--config=configs/smt_digits.py:small", "--workdir=x"], "which takes no argument; got"),
        (
            [DIGITS, "--workdir=s3://bucket/run"],
            "--workdir must be a directory or a gs:// address; got 's3://bucket/run'",
        ),
        ([DIGITS, "--workdir=/proc/run"], "--workdir must be a writable directory; got '/proc/run'"),
    ],
)
def test_bad_flag(run, arguments, says):
    code, _, error = run(*arguments)
    assert code == 2
    assert re.search(says, error), error
    assert error.count("\n") == 1


def changed(lines):
    """A config file whose config is changed by these lines."""
    first = "from vicreg_jax.config import base_config\ndef get_config():\n    config = base_config()"
    return f"{first}\n    {lines}\n    return config"


CONFIG_FILES = {
    "raises": ("def get_config(): raise KeyError('head\\ndims')", r"that loads; .* \(KeyError"),
    "exits": ("import sys\nsys.exit(0)", r"that loads; got '.*', which exits \(0\)"),
    "exits in get_config": ("def get_config(): raise SystemExit", r"that loads; got '.*', which exits \(None\)"),
    "no get_config": ("config = 1", r"with a function get_config; got '.*' without one"),
    "None": ("def get_config(): pass", r"must return the ConfigDict of base_config\(\); got None"),
    "a dict": ("def get_config(): return {'seed': 0}", r"must return the ConfigDict .*; got {'seed': 0}"),
    "empty": (
        "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict()",
        r"must return the ConfigDict of base_config\(\); got one with task=None",
    ),
    "no section": (
        changed("with config.unlocked(): del config.optim"),
        "got one without optim",
    ),
    "no field": (changed("with config.unlocked(): del config.seed"), "got one without seed"),
    "no method": (
        changed("with config.unlocked(): del config.method"),
        "with method.name=None",
    ),
    "a field more": (
        changed("with config.unlocked(): config.optim.nesterov = True"),
        r"got one with optim\.nesterov, no field",
    ),
    "another type": (
        changed("config.train.epochs = 'many'"),
        "Could not override field 'epochs'",
    ),
    "another type, unchecked": (
        changed("with config.ignore_type(): config.train.epochs = 'many'"),
        r"config\.train\.epochs must be an integer of at least 1; got 'many'",
    ),
    "a bool for a number": (
        changed("config.train.epochs = True"),
        r"config\.train\.epochs must be an integer of at least 1; got True",
    ),
    "an array": (
        changed("import numpy as np\n    config.model.head_dims = np.array([8, 8])"),
        "Could not override field 'head_dims'",
    ),
}


@pytest.mark.parametrize(("text", "says"), CONFIG_FILES.values(), ids=CONFIG_FILES)
def test_config_file_that_gives_no_config_is_refused_in_one_line(run, tmp_path, text, says):
    (tmp_path / "broken.py").write_text(text)
    code, _, error = run(f"--config={tmp_path / 'broken.py'}", f"--workdir={tmp_path / 'run'}")
    assert code == 2
    assert error.startswith("error: ")
    assert re.search(says, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_numpy_scalars_are_numbers(run, tmp_path):
    lines = (
        "import numpy as np",
        "config.train.epochs = np.int64(3)",
        "config.optim.base_lr = np.float32(0.5)",
        "config.optim.decay_biases = np.bool_(True)",
        "config.data.decode_size = np.uint8(48)",
        "config.model.head_dims = tuple(np.array([8, 16]))",
    )
    (tmp_path / "numbers.py").write_text(changed("; ".join(lines)))
    code, printed, error = run(f"--config={tmp_path / 'numbers.py'}", "--print_config")
    assert (code, error) == (0, "")
    config = json.loads(printed)
    assert (config["train"]["epochs"], config["optim"]["base_lr"], config["data"]["decode_size"]) == (3, 0.5, 48)
    assert config["model"]["head_dims"] == [8, 16]
    assert config["optim"]["decay_biases"] is True


def test_config_of_a_run_is_given_back_with_overrides(run, tmp_path):
    _, printed, _ = run(DIGITS + ":byol", "--print_config")
    write_config(tmp_path, json.loads(printed))  # with the versions
    path = tmp_path / "config.json"
    assert run(f"--config={path}", "--print_config") == (0, printed, "")
    code, changed, _ = run(f"--config={path}", "--config.seed=1", "--config.model.head_dims=(8,8)", "--print_config")
    expected = json.loads(printed)
    expected["seed"], expected["model"]["head_dims"] = 1, [8, 8]
    assert (code, json.loads(changed)) == (0, expected)


@pytest.mark.parametrize(
    ("text", "says"), [("{", "must be readable JSON"), ("{}", "config.json must hold a config of")]
)
def test_config_json_that_holds_no_config(run, tmp_path, text, says):
    (tmp_path / "config.json").write_text(text)
    code, _, error = run(f"--config={tmp_path / 'config.json'}", "--workdir=x")
    assert code == 2
    assert says in error
    assert error.count("\n") == 1
    code, _, error = run(f"--config={tmp_path / 'nothing.json'}", "--workdir=x")
    assert (code, "--config must be a file such as" in error) == (2, True)


def test_overrides_may_stand_before_the_config(run):
    code, printed, _ = run("--config.seed=3", DIGITS, "--print_config")
    assert code == 0
    assert json.loads(printed)["seed"] == 3


def printed_by(run, *arguments):
    """The printed config, as JSON."""
    code, printed, error = run(DIGITS, *arguments, "--print_config")
    assert (code, error) == (0, "")
    return json.loads(printed)


def test_the_last_override_of_a_field_counts(run):
    overrides = ("--config.model.head_dims=(64,64,64)", "--config.model.head_dims=(96,96)", "--config.seed=1")
    config = printed_by(run, *overrides, "--config.seed=2")
    assert config["model"]["head_dims"] == [96, 96]
    assert config["seed"] == 2


def test_none_sets_a_field_whose_default_is_none(run, tmp_path):
    config = printed_by(run)
    for name, field in pretrain_table("vicreg").items():
        section, _, last = name.rpartition(".")
        if field.default is None:
            config[section][last] = {str: "x", int: 2, float: 0.5, bool: True, tuple: [0.5, 1.0]}[field.rule.type]
    (tmp_path / "config.json").write_text(json.dumps(config))
    nones = [name for name, field in pretrain_table("vicreg").items() if field.default is None]
    assert {"data.data_dir", "data.decode_size", "train.microbatch_size", "augment.crop_area"} < set(nones)
    overrides = [f"--config.{name}=None" for name in nones]
    code, printed, _ = run(f"--config={tmp_path / 'config.json'}", *overrides, "--print_config")
    assert code == 0
    assert {name: value for name, value in flatten(json.loads(printed)).items() if name in nones} == dict.fromkeys(
        nones
    )


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--config.optim.decay_biases"], True),
        (["--config.optim.decay_biases", "--noconfig.optim.decay_biases"], False),
        (["-config.optim.decay_biases=true"], True),
    ],
)
def test_a_flag_needs_no_value(run, arguments, value):
    assert printed_by(run, *arguments)["optim"]["decay_biases"] is value


def test_a_value_may_be_the_next_argument(run):
    config = printed_by(run, "--config.mesh.data", "-1", "--config.data.name", "a=b", "--config.data.manual_dir=True")
    assert (config["mesh"]["data"], config["data"]["name"], config["data"]["manual_dir"]) == (-1, "a=b", "True")


def test_printed_config_can_be_given_back(run, tmp_path):
    code, printed, _ = run(DIGITS + ":byol", "--print_config", "--config.train.epochs=7", "--config.data.decode_size=9")
    assert code == 0
    path = tmp_path / "config.json"
    path.write_text(printed)
    assert run(f"--config={path}", "--print_config") == (0, printed, "")
    assert run(f"--config={path}", "--print_config", "--config.train.epochs=8")[1] != printed


@pytest.mark.parametrize("config", ["smt_digits.py", "locoprop_fashion_mnist.py:s", "locoprop_fashion_mnist.py:adam"])
def test_printed_config_of_other_tasks_can_be_given_back(run, tmp_path, config):
    _, printed, _ = run(f"--config=configs/{config}", "--print_config")
    (tmp_path / "config.json").write_text(printed)
    assert run(f"--config={tmp_path / 'config.json'}", "--print_config") == (0, printed, "")


def test_help_of_a_config_lists_every_field(run):
    code, printed, _ = run(DIGITS, "--help")
    assert code == 0
    for name, field in pretrain_table("vicreg").items():
        assert f"--config.{name}=" in printed
        assert field.help in printed
        assert field.rule.words in printed
    assert "--config.data.image_size=8 (default 32)" in printed


def test_every_field_has_a_rule_and_one_line_of_help():
    for method in ("vicreg", "barlow_twins", "simclr", "debiased", "moco", "byol", "simsiam", "triplet"):
        for name, field in pretrain_table(method).items():
            assert field.help, name
            assert "\n" not in field.help
            assert len(field.help) <= 160, name
            assert field.default is None or field.rule.accepts(field.default), name


@pytest.fixture
def other_run(tmp_path):
    """A workdir with a run of `base_config`."""
    write_config(tmp_path, to_json(base_config()))
    (tmp_path / "checkpoints" / "30").mkdir(parents=True)
    return tmp_path


def test_run_of_another_config_is_refused_and_left_as_it_is(run, other_run):
    before = (other_run / "config.json").read_bytes()
    code, _, error = run(DIGITS, f"--workdir={other_run}")
    assert code == 2
    assert error.count("\n") == 1
    assert "--workdir must be a new directory, or hold a run of this config; got" in error
    assert "model.name was 'resnet50' and is 'resnet_tiny'" in error
    assert "logging" not in error
    assert (other_run / "config.json").read_bytes() == before


@pytest.mark.parametrize("version", [{}, {"versions": {"vicreg_jax": "0.1.0"}}])
def test_run_of_an_older_version_is_refused_in_one_line(run, other_run, version):
    fields = to_json(base_config()) | version
    fields["train"]["rematerialise"] = fields["train"].pop("remat")
    (other_run / "config.json").write_text(json.dumps(fields))
    code, _, error = run(DIGITS, f"--workdir={other_run}")
    assert code == 2
    assert error.count("\n") == 1
    assert "written by an incompatible version of vicreg_jax" in error
    code, _, error = run(f"--config={other_run / 'config.json'}", "--workdir=x")
    assert code == 2
    assert "config.train.rematerialise must be a field of this version of vicreg_jax; got False" in error


@pytest.mark.parametrize(
    "program",
    [pytest.param(["launch.py"], marks=pytest.mark.slow), ["-c", "from vicreg_jax.cli import console; console()"]],
)
def test_launch_and_the_console_script_are_the_same(program):
    result = subprocess.run(
        [sys.executable, *program, DIGITS, "--workdir=x", "--num_processes=2"],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2
    assert result.stderr == ("error: --coordinator_address, --num_processes and --process_id must be given together\n")
