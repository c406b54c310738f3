"""`config.task=export`: the export of a workdir or of another encoder in any format, or one line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.runs import ROOT
from tests.small_encoder import make_encoder, small_config
from vicreg_jax import load_encoder
from vicreg_jax.config import PRETRAIN, to_json
from vicreg_jax.encoder import FORMATS, Encoder
from vicreg_jax.interop import to_torch, write_torch
from vicreg_jax.models import ViT
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.workdir import write_config
from vicreg_jax.tasks import export as export_module
from vicreg_jax.tasks.export import export
from vicreg_jax.tasks.pretrain.build import build_preprocessing

LOOP = """
import sys
from tests.small_encoder import make_encoder
encoder = make_encoder()
print("exporting", flush=True)
while True:
    encoder.export(sys.argv[1])
"""


@pytest.fixture
def workdir(tmp_path):
    """An encoder, as a workdir holds one."""
    return make_encoder().export(tmp_path / "run")


def test_export_of_a_workdir(workdir, capsys):
    for _ in range(2):
        export(small_config(), workdir)
        assert f"the encoder is in {workdir}/export" in capsys.readouterr().out
        assert load_encoder(workdir / "export").digest == load_encoder(workdir).digest
        assert sorted(os.listdir(workdir)) == ["config.json", "encoder.npz", "export"]


def test_file_of_that_name(workdir):
    (workdir / "export").write_text("mine")
    with pytest.raises(InputError, match=r"^config.export.output must be a new or an empty.*/run/export', a file$"):
        export(small_config(), workdir)
    assert (workdir / "export").read_text() == "mine"


def test_workdir_without_a_run(tmp_path):
    with pytest.raises(InputError, match=r"^--workdir must be a run, an export or a file of weights; got .* without a"):
        export(small_config(), tmp_path)


def test_workdir_without_a_checkpoint(workdir):
    (workdir / "encoder.npz").unlink()
    with pytest.raises(InputError, match=r"^--workdir must hold a complete, intact checkpoint; got none in"):
        export(small_config(), workdir)


def test_file_of_weights(workdir, tmp_path):
    """Described by the config, as it has no model card."""
    encoder, config = load_encoder(workdir), small_config()
    write_torch(tmp_path / "a.pth", to_torch(encoder.variables, encoder.backbone))
    config.export.update(
        {"encoder": f"{tmp_path}/a.pth", "format": "detectron2", "output": f"{tmp_path}/b.pkl"},
    )
    export(config, tmp_path / "nothing")
    assert load_encoder(tmp_path / "b.pkl").digest == encoder.digest


FILES = {
    "safetensors": "encoder.safetensors",
    "torchvision": "encoder.pth",
    "timm": "encoder.safetensors",
    "detectron2": "encoder.pkl",
}


def test_formats_are_those_of_the_field():
    assert PRETRAIN["export.format"].rule.choices == ("vicreg_jax", *FORMATS) == ("vicreg_jax", *FILES)


@pytest.mark.parametrize(("format", "name"), FILES.items())
def test_formats_of_other_libraries(workdir, format, name, capsys):
    config = small_config()
    config.export.format = format
    summary = {"method": "vicreg", "seconds": 3.0, "knn_accuracy": 0.5, "baselines": {"raw_pixels": {}}}
    (workdir / "summary.json").write_text(json.dumps(summary | {"steps": 1}))
    write_config(workdir, to_json(config))
    export(config, workdir)
    path = workdir / name
    assert capsys.readouterr().out == f"the encoder is in {path}; vicreg_jax.load_encoder('{path}') loads it\n"
    assert load_encoder(path).digest == load_encoder(workdir).digest
    card = json.loads((workdir / f"{name}.json").read_text())
    assert card["format"] == format
    assert card["results"] == {"method": "vicreg", "knn_accuracy": 0.5, "baselines": {"raw_pixels": {}}}


def test_export_of_an_export(workdir, tmp_path):
    """From any format to any other, without a run in the workdir."""
    config, digest = small_config(), load_encoder(workdir).digest
    place = workdir
    for format, name in (
        ("timm", "a.safetensors"),
        ("detectron2", "b.pkl"),
        ("vicreg_jax", "c"),
        ("torchvision", "d.pth"),
    ):
        config.export.update({"encoder": str(place), "format": format, "output": str(tmp_path / name)})
        export(config, tmp_path / "nothing")
        place = tmp_path / name
        assert load_encoder(place).digest == digest
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (
            "format",
            "onnx",
            "config.export.format must be one of vicreg_jax, safetensors, torchvision, timm, detect",
        ),
        (
            "encoder",
            "{}/none",
            "config.export.encoder must be a run, an export or a file of weights; got '{}/none'",
        ),
        ("output", "{}/a.pt", "config.export.output must be a path that ends in .pth for the format torchvision; got"),
        ("output", "{}/a/b.pth", "config.export.output must be a file in a directory that exists; got '{}/a/b.pth'"),
        ("output", "{}/run/mine.pth", "config.export.output must be a new file, or an earlier export; got"),
    ],
)
def test_bad_fields_are_one_line(workdir, tmp_path, field, value, says):
    (workdir / "mine.pth").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    config = small_config()
    config.export.format = "torchvision"
    config.export[field] = value.format(tmp_path)
    with pytest.raises(InputError, match=f"^{says.format(tmp_path)}") as error:
        export(config, workdir)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert (workdir / "mine.pth").read_text() == "mine"


def test_format_without_names_for_a_vit(workdir, monkeypatch):
    config = small_config()
    config.model.name = "vit_tiny_patch8"
    vit = Encoder(ViT(8, 64, 1, 1, 16), {}, build_preprocessing(config, 3), config)
    monkeypatch.setattr(export_module, "load_encoder", lambda place, config: vit)
    config.export.format = "detectron2"
    with pytest.raises(
        InputError, match=r"^config.export.format must be one of vicreg_jax, timm for vit_tiny_patch8; got 'detectron2'"
    ):
        export(config, workdir)
    assert sorted(os.listdir(workdir)) == ["config.json", "encoder.npz"]


@pytest.mark.slow
def test_kills(environment, tmp_path):
    """Whenever it is killed, what has the final name is whole, or is not there for a moment between two renames."""
    path, digest = tmp_path / "export", make_encoder().digest
    for delay in (0.0, 0.01, 0.03, 0.1, 0.3):
        line = [sys.executable, "-c", LOOP, str(path)]
        with subprocess.Popen(line, env=environment, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"exporting\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        if path.exists():
            assert load_encoder(path).digest == digest
    make_encoder().export(path)
    assert os.listdir(tmp_path) == ["export"]
