"""Exports of trained runs in the libraries that they are for: see `test_with_torch.py` for the environment.

The ONNX test needs onnx, onnxscript and onnxruntime there too.
"""

import functools
import itertools
import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_sample_images

from tests.interop.features import assert_close, features_of, photographs
from tests.runs import ROOT, launch
from vicreg_jax.encoder import FORMATS, load_encoder, write_weights
from vicreg_jax.encoder.weights_file import TOLERANCE
from vicreg_jax.tasks.export import export
from vicreg_jax.tasks.registry import read_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(quick_environment, tmp_path_factory):
    """`trained(name)`: the workdir of a short run of VICReg on parts of two photographs, with that ResNet."""
    home = tmp_path_factory.mktemp("trained")
    for photograph, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        for index, (top, left) in enumerate(itertools.product(range(0, 331, 55), range(0, 541, 60))):
            path = home / "photos" / ("test" if index % 5 == 0 else "train") / photograph / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pixels[top : top + 96, left : left + 96]).save(path)

    @functools.cache
    def run(name):
        result = launch(
            quick_environment,
            home / name,
            f"--config.data.manual_dir={home}/photos",
            "--config.data.image_size=32",
            f"--config.model.name={name}",
            "--config.model.head_dims=(64, 64)",
            "--config.train.batch_size=32",
            "--config.train.epochs=2",
            "--config.train.precision=float32",
            "--config.optim.warmup_epochs=0.0",
            config="configs/image_folder.py",
        )
        assert result.returncode == 0, result.stderr
        return home / name

    return run


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_receivers_load_the_export_of_a_run(name, format, trained, in_torch, tmp_path):
    """The receiver's own loader; features of photographs."""
    workdir = trained(name)
    encoder = load_encoder(workdir)
    statistics = encoder.variables["batch_stats"]["layer4_0"]["bn1"]
    assert np.abs(statistics["mean"]).max() > 0.01
    assert np.ptp(statistics["var"]) > 0.01
    path = tmp_path / f"encoder{FORMATS[format].suffix}"
    config = read_config(json.loads((workdir / "config.json").read_text()))
    config.export.update({"format": format, "output": str(path)})
    export(config, workdir)
    assert load_encoder(path).digest == encoder.digest
    summary, card = (json.loads(Path(file).read_text()) for file in (workdir / "summary.json", f"{path}.json"))
    assert card["results"]["knn_accuracy"] == summary["knn_accuracy"]
    images = photographs()
    np.save(tmp_path / "images.npy", images)
    in_torch("load", tmp_path, format, name, path)
    assert_close(np.load(tmp_path / "features.npy"), features_of(encoder.backbone, encoder.variables, images))


def lines_of_the_guide(mark):
    page = (ROOT / "docs/guides/weights.md").read_text()
    (lines,) = re.findall(rf"^```python {mark}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    return lines


def test_check_of_the_guide(trained, torch_python, tmp_path):
    """A receiver's check of a file: it passes, and it fails with another normalization."""
    path = write_weights(tmp_path / "encoder.pth", load_encoder(trained("resnet18")), "torchvision")
    lines = lines_of_the_guide("check")
    assert float(torch_python("-c", lines, cwd=tmp_path)) < TOLERANCE
    card = Path(f"{path}.json")
    fields = json.loads(card.read_text())
    fields["preprocessing"]["std"] = [0.26] * 3  # 0.25
    card.write_text(json.dumps(fields))
    assert float(torch_python("-c", lines, cwd=tmp_path)) > TOLERANCE


def test_onnx_of_the_guide(trained, torch_python, tmp_path):
    """By way of torchvision's model, and in ONNX Runtime."""
    write_weights(tmp_path / "encoder.pth", load_encoder(trained("resnet18")), "torchvision")
    lines = lines_of_the_guide("check") + lines_of_the_guide("onnx")
    printed = torch_python("-c", lines, cwd=tmp_path, packages="torch, torchvision, onnx, onnxscript, onnxruntime")
    assert float(printed.split()[-1]) < TOLERANCE
