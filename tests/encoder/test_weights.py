"""Weights to start from fit the network exactly, are adapted by a stated rule, or are refused in one line."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.interop.variables import random_variables
from vicreg_jax.encoder import load_encoder, read_backbone, read_head
from vicreg_jax.encoder.export import types_of_model
from vicreg_jax.encoder.weights import adapt
from vicreg_jax.interop import to_torch, write_safetensors, write_torch
from vicreg_jax.models import Head, ViT, create_backbone, resize_positions
from vicreg_jax.runtime.errors import InputError

TINY = create_backbone("resnet_tiny", width=0.25, stem="small")
HEAD = Head((8, 4))
VIT = ViT(patch_size=4, dim=64, depth=1, heads=1, image_size=16)


def read(path, backbone=TINY, image_size=16, channels=3):
    return read_backbone(path, backbone, image_size=image_size, channels=channels)


def write(path, model=TINY, inputs=3, style="torchvision"):
    """A file of random weights; returns them."""
    variables = random_variables(model, inputs)
    write_torch(path, to_torch(variables, model, style=style))
    return variables


def flat(variables):
    return flatten_dict(variables, sep="/")


def assert_same(found, expected):
    found, expected = flat(found), flat(expected)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_file(tmp_path, name):
    variables = random_variables(TINY)
    {"x.pth": write_torch, "x.safetensors": write_safetensors}[name](tmp_path / name, to_torch(variables, TINY))
    weights = read(tmp_path / name)
    assert_same(weights.variables, variables)
    assert weights.digest == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert weights.notes == ()


def test_export(encoder, tmp_path):
    weights = read(encoder.export(tmp_path / "export"))
    assert_same(weights.variables, encoder.variables)
    assert weights.notes == ()
    again = read(encoder.export(tmp_path / "again"))
    assert again.digest == weights.digest


def test_encoder_of_a_file(tmp_path):
    model = create_backbone("resnet_tiny")
    variables = write(tmp_path / "x.pth", model)
    encoder = load_encoder(tmp_path / "x.pth", model="resnet_tiny")
    assert_same(encoder.variables, variables)
    assert (encoder.preprocessing.image_size, encoder.preprocessing.central_fraction) == (224, 0.875)
    assert encoder.preprocessing.mean == (0.485, 0.456, 0.406)
    with pytest.raises(InputError, match=r"^model must be the name of a backbone, such as 'resnet50', .*; got None$"):
        load_encoder(tmp_path / "x.pth")


def test_encoder_of_a_file_and_a_config(encoder, tmp_path):
    write_torch(tmp_path / "x.pth", to_torch(encoder.variables, TINY))
    assert load_encoder(tmp_path / "x.pth", config=encoder.config).digest == encoder.digest


@pytest.mark.parametrize(("given", "wanted"), [(3, 1), (1, 3)])
@pytest.mark.parametrize("backbone", [TINY, VIT], ids=["ResNet", "ViT"])
def test_gray_image_has_the_features_of_its_copy_in_color(backbone, given, wanted):
    """Kernels for color are summed for gray images, and kernels for gray images divided for color."""
    gray = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 1)), jnp.float32)
    inputs = {1: gray, 3: jnp.tile(gray, (1, 1, 1, 3))}
    before, variables = jax.jit(backbone.init_with_output)(jax.random.key(0), inputs[given])
    arrays, missing, notes = adapt(flat(variables), types_of_model(backbone, 16)(wanted))
    after = jax.jit(backbone.apply)(unflatten_dict(arrays, sep="/"), inputs[wanted])
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    assert not missing
    assert notes == ("the first kernels are " + {3: "summed over 3 channels", 1: "divided among 3 channels"}[given],)


def test_another_stem_is_left_out(tmp_path):
    variables = write(tmp_path / "x.pth", create_backbone("resnet_tiny", width=0.25))
    weights = read(tmp_path / "x.pth")
    for collection in variables.values():
        for name in ("conv1", "bn1"):
            collection.pop(name, None)
    assert_same(weights.variables, variables)
    assert weights.notes == ("conv1 and bn1 stay random: the kernel of the stem is 7x7, not 3x3",)


def test_position_embeddings_are_interpolated():
    arrays = {"params/cls_token": np.zeros((1, 1, 64), np.float32)}
    arrays["params/pos_embed"] = np.random.default_rng(0).normal(size=(1, 17, 64)).astype(np.float32)
    found, _, notes = adapt(arrays, types_of_model(VIT, 16)(3) | types_of_model(VIT.clone(image_size=24), 24)(3))
    assert notes == ("the position embeddings are interpolated from 4x4 to 6x6 patches",)
    np.testing.assert_array_equal(found["params/pos_embed"], resize_positions(arrays["params/pos_embed"], 1, (6, 6)))


def test_file_of_a_vit_for_another_image_size(tmp_path):
    large = VIT.clone(image_size=24)
    variables = write(tmp_path / "x.pth", large, style="timm")
    assert_same(read(tmp_path / "x.pth", large, 24).variables, variables | {"batch_stats": {}})
    weights = read(tmp_path / "x.pth", VIT, 16)
    assert weights.notes == ("the position embeddings are interpolated from 6x6 to 4x4 patches",)
    expected = resize_positions(variables["params"]["pos_embed"], 1, (4, 4))
    np.testing.assert_array_equal(weights.variables["params"]["pos_embed"], expected)


@pytest.mark.parametrize("style", ["torchvision", "vicreg_fullckpt"])
def test_head_of_a_file(tmp_path, style):
    variables = random_variables(HEAD, 16)
    write_torch(tmp_path / "x.pth", to_torch(variables, HEAD, style=style))
    assert_same(read_head(tmp_path / "x.pth", HEAD, features=16).variables, variables)
    with pytest.raises(InputError, match=r"^path must hold weights of this architecture, with params/dense_0/kernel"):
        read_head(tmp_path / "x.pth", HEAD, features=8)


def refused(call, *arguments, **options):
    with pytest.raises(InputError) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("path must ")
    return str(error.value)


def test_another_architecture_is_refused(encoder, tmp_path):
    write(tmp_path / "x.pth", create_backbone("resnet_tiny", width=0.5, stem="small"))
    said = refused(read, tmp_path / "x.pth")
    assert "must have the tensors of resnet_tiny with width 0.25 and the 'small' stem" in said
    assert "conv1.weight [8, 3, 3, 3] instead of [4, 3, 3, 3]" in said
    assert "(the nearest architecture is resnet_tiny with width 0.5 and the 'small' stem)" in said
    said = refused(read, encoder.export(tmp_path / "export"), TINY.clone(filters=8))
    assert "with batch_stats/bn1/mean: float32[8]; got float32[4]" in said
    assert "among those of resnet_tiny in " in said
    assert "no array" in refused(read, tmp_path / "export", VIT)
    assert "path must have the keys of a ViT (`blocks.0.attn" in refused(read, tmp_path / "x.pth", VIT)


def test_other_numbers_of_channels_are_refused(tmp_path):
    write(tmp_path / "x.pth", inputs=3)
    assert "params/conv1/kernel: float32[3, 3, 4, 4]; got float32[3, 3, 3, 4]" in refused(
        read, tmp_path / "x.pth", channels=4
    )


def test_damaged_and_missing_places_are_refused(encoder, tmp_path):
    write(tmp_path / "x.pth")
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.pth").write_text("weights")
    (tmp_path / "empty").mkdir()
    assert "must be a complete PyTorch or safetensors file" in refused(read, tmp_path / "short.pth")
    assert "must be a complete PyTorch or safetensors file" in refused(read, tmp_path / "text.pth")
    assert "without a config.json" in refused(read, tmp_path / "empty")
    assert "which does not exist" in refused(read, tmp_path / "nothing.pth")
    assert "must have the keys of a head" in refused(read_head, tmp_path / "x.pth", HEAD, features=16)
    export = encoder.export(tmp_path / "export")
    assert "must hold a complete, intact checkpoint; got none" in refused(read_head, export, HEAD, features=16)


def test_two_networks_in_a_file_are_named(tmp_path):
    state_dict = to_torch(random_variables(TINY), TINY)
    both = {f"{prefix}.{key}": array for prefix in ("teacher", "student") for key, array in state_dict.items()}
    write_torch(tmp_path / "x.pth", both)
    assert "must be one of teacher., student., the ResNets of the file" in refused(read, tmp_path / "x.pth")
