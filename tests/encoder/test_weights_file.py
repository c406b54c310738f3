"""A file for another library: its card and its check tell the truth, it is whole or not there, and it is read back."""

import dataclasses
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.interop.test_convert import assert_same_bits
from tests.interop.variables import random_variables
from tests.small_encoder import make_encoder
from vicreg_jax.encoder import FORMATS, Encoder, load_encoder, weights_file, write_weights
from vicreg_jax.interop import load_torch, to_flax
from vicreg_jax.models import ViT
from vicreg_jax.runtime.errors import InputError

NAMES = {
    "safetensors": "layer2.0.downsample.0.weight",
    "torchvision": "layer2.0.downsample.0.weight",
    "timm": "layer2.0.downsample.0.weight",
    "detectron2": "res3.0.shortcut.weight",
}


def write(encoder, folder, format="torchvision", **options):
    return write_weights(folder / f"encoder{FORMATS[format].suffix}", encoder, format, **options)


def card_of(path):
    return json.loads(path.with_name(path.name + ".json").read_text())


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("format", FORMATS)
def test_round_trip_keeps_every_bit(encoder, tmp_path, format):
    path = write(encoder, tmp_path, format)
    assert NAMES[format] in load_torch(path)
    loaded = load_encoder(path)
    assert loaded.digest == encoder.digest
    assert loaded.config == encoder.config
    assert sorted(os.listdir(tmp_path)) == [path.name, f"{path.name}.json", f"{path.name}.npz"]
    again = write(loaded, tmp_path, format)  # an earlier export is replaced
    assert load_encoder(again).digest == encoder.digest


def test_equal_encoders_give_equal_files(encoder, tmp_path):
    write(encoder, tmp_path)
    before = content_of(tmp_path)
    write(make_encoder(), tmp_path)
    after = content_of(tmp_path)
    assert {**after, "encoder.pth.npz": b""} == {**before, "encoder.pth.npz": b""}  # a zip file has a date


def test_card(encoder, tmp_path):
    card = card_of(write(encoder, tmp_path, "timm", results={"knn_accuracy": 0.5}))
    assert card["format"] == "timm"
    assert card["architecture"] == {
        "name": "resnet_tiny",
        "width": 0.25,
        "stem": "small",
        "channels": 3,
        "feature_dim": 16,
    }
    assert card["preprocessing"] == {
        "image_size": 16,
        "central_fraction": 1.0,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert card["results"] == {"knn_accuracy": 0.5}
    assert card["check"] == {"file": "encoder.safetensors.npz", "images": "synthetic", "tolerance": 1e-4}
    assert card["encoder"] == encoder.digest
    assert card["config"]["model"]["head_dims"] == [8]


def test_card_has_a_mean_for_every_channel(encoder, tmp_path):
    preprocessing = dataclasses.replace(encoder.preprocessing, mean=(0.5,), std=(0.25,))
    card = card_of(write(dataclasses.replace(encoder, preprocessing=preprocessing), tmp_path))
    assert (card["preprocessing"]["mean"], card["preprocessing"]["std"]) == ([0.5] * 3, [0.25] * 3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_check_is_what_the_encoder_computes_in_float32(encoder, tmp_path, dtype):
    own = dataclasses.replace(encoder, backbone=encoder.backbone.clone(dtype=dtype))
    path = write(own, tmp_path)
    with np.load(path.with_name(path.name + ".npz")) as check:
        images, features = check["images"], check["features"]
    assert (images.shape, images.dtype) == ((8, 16, 16, 3), np.uint8)
    assert (features.shape, features.dtype) == ((8, 16), np.float32)
    np.testing.assert_allclose(features, encoder(images), rtol=1e-4, atol=1e-5)
    distances = np.linalg.norm(features[:, None] - features, axis=2)
    assert distances[np.triu_indices(8, 1)].min() > 0.01 * np.linalg.norm(features, axis=1).max()


@pytest.mark.parametrize("is_earlier", [False, True])
@pytest.mark.parametrize("part", ["card", "check", "weights"])
def test_killed_in_the_middle(encoder, tmp_path, monkeypatch, part, is_earlier):
    path = write(encoder, tmp_path) if is_earlier else tmp_path / "encoder.pth"
    before = content_of(tmp_path)

    def fail(file, content):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if part == "card":
            patch.setattr(weights_file, "_card", lambda *arguments: {"half": object()})
        elif part == "check":
            patch.setattr(weights_file, "write_arrays", fail)
        else:
            patch.setitem(FORMATS, "torchvision", FORMATS["torchvision"]._replace(write=fail))
        with pytest.raises(
            (InputError, TypeError), match=r"^path must be a writable file; got .*\(No space|serializable"
        ):
            write(encoder, tmp_path)
    assert content_of(tmp_path) == before
    assert load_encoder(write(encoder, tmp_path)).digest == encoder.digest
    assert path.exists()


@pytest.mark.parametrize("name", ["encoder.pth.json", "encoder.pth.npz", "encoder.pth"])
def test_killed_before_a_rename(encoder, tmp_path, monkeypatch, name):
    """The file of weights never stands beside the card of others."""
    path = write(encoder, tmp_path)
    other = changed(encoder)

    rename = Path.replace

    def replace(self, target):
        if target.name == name:
            raise SystemExit
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(SystemExit):
            write(other, tmp_path)
    assert not path.exists()
    assert load_encoder(write(other, tmp_path)).digest == other.digest


def changed(encoder):
    variables = {**encoder.variables, "batch_stats": {**encoder.variables["batch_stats"]}}
    variables["batch_stats"]["bn1"] = {"mean": np.ones(4, np.float32), "var": np.ones(4, np.float32)}
    return dataclasses.replace(encoder, variables=variables)


def a_file(path):
    path.write_text("mine")


def a_card_of_something_else(path):
    path.with_name(path.name + ".json").write_text('{"mine": 1}')


def a_check_of_something_else(path):
    path.with_name(path.name + ".npz").write_text("mine")


def a_dangling_link(path):
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [a_file, a_card_of_something_else, a_check_of_something_else, a_dangling_link])
def test_what_has_one_of_the_names_already_stays(encoder, tmp_path, make):
    make(tmp_path / "encoder.pth")
    (name,) = os.listdir(tmp_path)
    with pytest.raises(
        ValueError, match=rf"^path must be a new file, or an earlier export; got .* there is .*/{name}$"
    ):
        write(encoder, tmp_path)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("name", "format", "says"),
    [
        ("a.pt", "torchvision", "path must be a path that ends in .pth for the format torchvision; got "),
        ("a.pth", "timm", "path must be a path that ends in .safetensors for the format timm; got "),
        ("a/b.pkl", "detectron2", "path must be a file in a directory that exists; got "),
        ("a.onnx", "onnx", "format must be one of safetensors, torchvision, timm, detectron2; got 'onnx'"),
    ],
)
def test_bad_path_or_format(encoder, tmp_path, name, format, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        write_weights(tmp_path / name, encoder, format)
    assert os.listdir(tmp_path) == []


def test_directory_of_that_name(encoder, tmp_path):
    (tmp_path / "encoder.pth").mkdir()
    with pytest.raises(ValueError, match=r"^path must be a file in a directory that exists; got "):
        write(encoder, tmp_path)


@pytest.fixture
def vit(encoder):
    """Shallower than any name says: its check takes little time."""
    config = encoder.config.copy_and_resolve_references()
    config.model.update({"name": "vit_tiny_patch8", "width": 1 / 3, "pooling": "mean"})
    backbone = ViT(8, 64, 1, 1, 16, pooling="mean")
    return Encoder(backbone, random_variables(backbone), encoder.preprocessing, config)


def test_vit_is_written_for_timm(vit, tmp_path):
    path = write(vit, tmp_path, "timm")
    assert card_of(path)["architecture"] == {
        "name": "vit_tiny_patch8",
        "width": 1 / 3,
        "pooling": "mean",
        "channels": 3,
        "feature_dim": 64,
    }
    assert_same_bits(to_flax(load_torch(path), vit.backbone), vit.variables)


@pytest.mark.parametrize("format", ["safetensors", "torchvision", "detectron2"])
def test_formats_without_names_for_a_vit(vit, tmp_path, format):
    with pytest.raises(
        ValueError, match=rf"^format must be one of vicreg_jax, timm for vit_tiny_patch8; got '{format}'$"
    ):
        write(vit, tmp_path, format)
    assert os.listdir(tmp_path) == []


def test_weights_of_another_card_are_refused(encoder, tmp_path):
    path = write(encoder, tmp_path)
    (tmp_path / "other").mkdir()
    path.write_bytes(write(changed(encoder), tmp_path / "other").read_bytes())
    with pytest.raises(
        ValueError, match=r"^path must hold the weights that .*/encoder.pth.json describes; got others in"
    ):
        load_encoder(path)


def lacks_its_end(path):
    path.write_bytes(path.read_bytes()[:-100])
    return "path must be a complete PyTorch or safetensors file; got "


def is_of_another_model(path):
    card = card_of(path)
    card["config"]["model"]["width"] = 1.0
    path.with_name(path.name + ".json").write_text(json.dumps(card))
    return "path must have the tensors of resnet_tiny with the 'small' stem; got .*of another shape: conv1.weight"


def has_a_damaged_card(path):
    path.with_name(path.name + ".json").write_text("{")
    return f"{path}.json must be readable JSON; got JSONDecodeError"


def has_gone(path):
    path.unlink()
    return "path must be an existing file; got "


@pytest.mark.parametrize("damage", [lacks_its_end, is_of_another_model, has_a_damaged_card, has_gone])
def test_damaged_file_is_one_line(encoder, tmp_path, damage):
    path = write(encoder, tmp_path)
    with pytest.raises(InputError, match=f"^{damage(path)}") as error:
        load_encoder(path)
    assert "\n" not in str(error.value)
