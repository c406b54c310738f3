"""`--dry_run`: programs compiled for devices that are not here, and what it refuses."""

import importlib.util
import json
import sys

import pytest

from configs.digits import get_config
from configs.imagenet.vicreg import get_config as imagenet_config
from tests.runs import ROOT, run_command
from vicreg_jax.cli import main
from vicreg_jax.config import flatten
from vicreg_jax.tasks.dry_run import _alternatives, _splits_without_images
from vicreg_jax.training.topology import open_topology


def has_compiler(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is missing too
        return False


SMALL = ("--config.model.width=0.5", "--config.model.head_dims=(32,32)")


def test_a_dataset_need_not_be_here():
    train, test = _splits_without_images(imagenet_config(), 384)
    assert (len(train), len(test)) == (1_281_167, 50_000)
    assert (train.canvas, train.channels, train.num_classes) == (384, 3, 1000)
    config = imagenet_config()
    config.data.train_split = "train[:10%]"
    assert len(_splits_without_images(config, None)[0]) == 128_117
    assert _splits_without_images(config, None)[0].canvas == 336


def test_alternatives_need_less_memory():
    config = get_config()
    assert list(_alternatives(config, 8)) == [
        "mesh.fsdp=8",
        "train.remat=True",
        "train.microbatch_size=64",
        "train.batch_size=64",
    ]
    for changes in _alternatives(config, 8).values():
        assert changes.keys() <= flatten(config).keys()
    config.train.remat = True
    assert "train.remat=True" not in _alternatives(config, 8)
    assert "mesh.fsdp=1" not in _alternatives(config, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dry_run=v9:2x2"], "--dry_run must be one such as v4:2x2x4, v5e:4x4"),
        (["--dry_run=cpu:0"], "--dry_run must be one such as"),
        (["--dry_run=h100:0x8"], "--dry_run must be one such as"),
        (["--output=found.json"], "--output must be given with --dry_run"),
        (["--dry_run_alternatives"], "--dry_run_alternatives must be given with --dry_run"),
        (["--dry_run=cpu:8", "--output=nowhere/found.json"], "--output must be a file in a directory that exists"),
    ],
)
def test_bad_input_is_one_line(arguments, says, capsys):
    assert main(["launch.py", f"--config={ROOT}/configs/digits.py", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {says}")
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "config", "says"),
    [
        ("cpu:7", "digits", "config.train.batch_size must be a multiple of the 7 devices"),
        ("gpu", "digits", "--dry_run must be one that is here; got 'gpu' on a machine without one"),
        ("cpu:2", "smt_digits", "config.task must be one whose step is one program"),
        ("v5e:3x4", "digits", "--dry_run must be "),
    ],
)
def test_what_cannot_be_compiled_is_one_line(environment, topology, config, says):
    result = _dry_run(environment, topology, config=config)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {says}")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_eight_cpu_devices(environment, tmp_path):
    result = _dry_run(environment, "cpu:8", *SMALL, f"--output={tmp_path / 'found.json'}", "--dry_run_alternatives")
    assert result.returncode == 0, result.stderr
    for word in (
        "a compilation, not a run",
        "train step",
        "features",
        "all-reduce",
        "largest buffers",
        "with mesh.fsdp=8",
    ):
        assert word in result.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["devices"], found["mesh"], found["fits"]) == (8, {"data": 8, "fsdp": 1}, None)
    step = found["programs"]["train step"]
    assert step["memory"] > 0
    assert step["flops"] > 1e7
    assert "all-reduce" in [each["kind"] for each in step["collectives"]]
    assert found["programs"]["features"]["collectives"] == []
    assert found["alternatives"].keys() >= {"mesh.fsdp=8", "train.remat=True"}
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler("libtpu"), reason="needs the TPU's compiler: the extra tpu")
def test_a_tpu_slice(environment, tmp_path):
    """What must be summed over the slice is, and nothing but the embeddings is gathered."""
    result = _dry_run(environment, "v5e:2x4", *SMALL, f"--output={tmp_path / 'found.json'}")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["device"], found["devices"], found["fits"]) == ("TPU v5 lite", 8, True)
    step = found["programs"]["train step"]
    assert step["least_seconds"].keys() == {"arithmetic", "memory traffic", "interconnect"}
    assert "all-reduce" in [each["kind"] for each in step["collectives"]]
    assert found["programs"]["features"]["collectives"] == []


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler("jax_plugins.xla_cuda13"), reason="needs the GPU's compiler: the extra gpu")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gpus_that_are_not_here(environment, tmp_path, precision):
    arguments = (*SMALL, f"--config.train.precision={precision}", f"--output={tmp_path / 'found.json'}")
    result = _dry_run(environment, "h100:2x8", *arguments)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["device"], found["devices"], found["fits"]) == ("NVIDIA H100 80GB HBM3", 16, True)
    step = found["programs"]["train step"]
    assert step["flops"] is None
    assert step["least_seconds"].keys() == {"memory traffic", "interconnect"}
    assert "all-reduce" in [each["kind"] for each in step["collectives"]]


@pytest.mark.parametrize("topology", ["h100:8", "v5e:2x4"])
def test_a_compiler_that_is_not_installed(monkeypatch, topology):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^topology must be one whose compiler is installed \(pip install '\.\["):
        open_topology(topology)


def _dry_run(environment, topology, *arguments, config="digits"):
    line = [sys.executable, "launch.py", f"--config=configs/{config}.py", f"--dry_run={topology}", *arguments]
    # The TPU's compiler refuses flags that only XLA's CPU backend has.
    return run_command({name: value for name, value in environment.items() if name != "XLA_FLAGS"}, line)
