"""Exports of trained encoders in the libraries that they are for: see `test_with_torch.py` for the environment.

The ONNX test needs onnx, onnxscript and onnxruntime there too.
"""

import functools
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.interop.features import assert_close, features_of, photographs
from tests.interop.test_with_torch import usable_variables
from tests.runs import ROOT
from vicreg_jax.config import base_config
from vicreg_jax.encoder import FORMATS, build_backbone, load_encoder, write_weights
from vicreg_jax.encoder.weights_file import TOLERANCE
from vicreg_jax.interop import to_torch, write_safetensors
from vicreg_jax.tasks.export import export

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(in_torch, tmp_path_factory):
    """`trained(name)`: the encoder of a ResNet that torchvision trained a little on parts of two photographs."""

    @functools.cache
    def train(name):
        directory = tmp_path_factory.mktemp(name)
        np.save(directory / "images.npy", photographs())
        in_torch("train", directory, name, "imagenet")
        encoder = load_encoder(directory / "backbone.pth", model=name)
        statistics = encoder.variables["batch_stats"]["layer4_0"]["bn1"]
        assert np.abs(statistics["mean"]).max() > 0.01
        assert np.ptp(statistics["var"]) > 0.01
        return encoder

    return train


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_receivers_load_our_export(name, format, trained, in_torch, tmp_path):
    """The receiver's own loader; features of photographs."""
    encoder, images = trained(name), photographs()
    path = tmp_path / f"encoder{FORMATS[format].suffix}"
    config = base_config()
    config.export.update({"encoder": str(encoder.export(tmp_path / "own")), "format": format, "output": str(path)})
    export(config, tmp_path)
    assert load_encoder(path).digest == encoder.digest
    np.save(tmp_path / "images.npy", images)
    in_torch("load", tmp_path, format, name, path)
    features = features_of(encoder.backbone.clone(dtype=jnp.float32), encoder.variables, images)
    assert_close(np.load(tmp_path / "features.npy"), features)


def test_timm_loads_our_export_of_a_vit(in_torch, tmp_path):
    """Strictly; its model card and check are those of a ViT of 64 pixels with mean pooling."""
    config = base_config()
    config.data.image_size = 64
    config.model.update({"name": "vit_tiny_patch16", "pooling": "mean"})
    backbone = build_backbone(config)
    write_safetensors(tmp_path / "own.safetensors", to_torch(usable_variables(backbone), backbone, style="timm"))
    path = tmp_path / "encoder.safetensors"
    config.export.update({"encoder": str(tmp_path / "own.safetensors"), "format": "timm", "output": str(path)})
    export(config, tmp_path)
    encoder = load_encoder(path)
    assert encoder.digest == load_encoder(tmp_path / "own.safetensors", config=config).digest
    with np.load(f"{path}.npz") as check:
        inputs = (check["images"] / 255 - encoder.preprocessing.mean) / encoder.preprocessing.std
        np.save(tmp_path / "images.npy", inputs.astype(np.float32))
        in_torch("load_vit", tmp_path, "vit_tiny_patch16_224", "mean", path)
        assert_close(np.load(tmp_path / "features.npy"), check["features"])


def lines_of_the_guide(mark):
    page = (ROOT / "docs/guides/weights.md").read_text()
    (lines,) = re.findall(rf"^```python {mark}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    return lines


def test_check_of_the_guide(trained, torch_python, tmp_path):
    """A receiver's check of a file: it passes, and it fails with another normalization."""
    path = write_weights(tmp_path / "encoder.pth", trained("resnet18"), "torchvision")
    lines = lines_of_the_guide("check")
    assert float(torch_python("-c", lines, cwd=tmp_path)) < TOLERANCE
    card = Path(f"{path}.json")
    fields = json.loads(card.read_text())
    fields["preprocessing"]["std"] = [0.25] * 3
    card.write_text(json.dumps(fields))
    assert float(torch_python("-c", lines, cwd=tmp_path)) > TOLERANCE


def test_onnx_of_the_guide(trained, torch_python, tmp_path):
    """By way of torchvision's model, and in ONNX Runtime."""
    write_weights(tmp_path / "encoder.pth", trained("resnet18"), "torchvision")
    lines = lines_of_the_guide("check") + lines_of_the_guide("onnx")
    printed = torch_python("-c", lines, cwd=tmp_path, packages="torch, torchvision, onnx, onnxscript, onnxruntime")
    assert float(printed.split()[-1]) < TOLERANCE
