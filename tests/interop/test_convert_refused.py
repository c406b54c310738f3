"""`to_flax` and `to_torch`: what does not fit, in one line."""

import numpy as np
import pytest

from tests.interop.variables import random_variables
from vicreg_jax.interop import to_flax, to_torch
from vicreg_jax.interop.layout import slots_of
from vicreg_jax.methods import SimCLR
from vicreg_jax.models import RESNETS, TRANSFORMERS, Bottleneck, Head, ResNet, ViT, create_backbone

SMALL = ResNet(Bottleneck, stage_sizes=(1, 2), filters=4)
VIT = ViT(patch_size=2, dim=6, depth=2, heads=3, image_size=8)
HEAD = Head(dims=(6, 5, 4))


def state_dict_of(name, **options):
    model = create_backbone(name, **options)
    return {slot.key: np.broadcast_to(np.float32(1), slot.shape) for slot in slots_of(model, 3)}


@pytest.mark.parametrize(
    ("name", "options", "model", "message"),
    [
        (
            "resnet18",
            {},
            "resnet34",
            "state_dict must have the tensors of resnet34; got missing: layer1.2.conv1.weight, layer1.2.bn1.weight, "
            "layer1.2.bn1.bias and 77 more (the nearest architecture is resnet18)",
        ),
        (
            "resnet50",
            {"width": 2},
            "resnet50",
            "state_dict must have the tensors of resnet50; got of another shape: conv1.weight [128, 3, 7, 7] instead "
            "of [64, 3, 7, 7], bn1.weight [128] instead of [64], bn1.bias [128] instead of [64] and 262 more "
            "(the nearest architecture is resnet50 with width 2)",
        ),
        (
            "resnet18",
            {"stem": "small"},
            "resnet18",
            "state_dict must have the tensors of resnet18; got of another shape: conv1.weight [64, 3, 3, 3] instead of "
            "[64, 3, 7, 7] (the nearest architecture is resnet18 with the 'small' stem)",
        ),
    ],
)
def test_file_of_another_architecture(name, options, model, message):
    with pytest.raises(ValueError) as info:
        to_flax(state_dict_of(name, **options), model)
    assert str(info.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"patch_size": 4},
            "of another shape: patch_embed.proj.weight [6, 3, 4, 4] instead of [6, 3, 2, 2] "
            "(the nearest architecture is a ViT of 2 blocks, 6 wide, with patches of 4 pixels)",
        ),
        (
            {"pooling": "mean", "depth": 1},
            "missing: cls_token, blocks.1.norm1.weight, blocks.1.norm1.bias and 10 more; of another shape: pos_embed "
            "[1, 16, 6] instead of [1, 17, 6] (the nearest architecture is a ViT of 1 blocks, 6 wide, with patches of "
            "2 pixels with mean pooling)",
        ),
    ],
)
def test_vit_of_another_architecture(options, message):
    other = VIT.clone(**options)
    with pytest.raises(ValueError) as info:
        to_flax(to_torch(random_variables(other), other, style="timm"), VIT)
    rule = "state_dict must have the tensors of a ViT of 2 blocks, 6 wide, with patches of 2 pixels; got "
    assert str(info.value) == rule + message


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_nearest_vit_is_the_files(name):
    other = "vit_tiny_patch16" if name != "vit_tiny_patch16" else "vit_small_patch16"
    with pytest.raises(ValueError, match=rf"\(the nearest architecture is {name}\)$"):
        to_flax(state_dict_of(name), other)


@pytest.mark.parametrize("name", RESNETS)
def test_nearest_architecture_is_the_files(name):
    other = "resnet18" if name != "resnet18" else "resnet50"
    for width in (1, 2):
        expected = name + (f" with width {width}" if width > 1 else "")
        with pytest.raises(ValueError, match=rf"\(the nearest architecture is {expected}\)$"):
            to_flax(state_dict_of(name, width=width), other)


def test_keys_are_listed_by_the_names_of_the_file():
    state_dict = to_torch(random_variables(SMALL), SMALL, style="detectron2")
    del state_dict["res3.1.conv2.norm.bias"]
    state_dict["res3.1.conv4.weight"] = state_dict["stem.extra"] = np.ones(1, np.float32)
    with pytest.raises(ValueError) as info:
        to_flax(state_dict, SMALL)
    assert str(info.value).startswith(
        "state_dict must have the tensors of a ResNet of 1-2 Bottlenecks; "
        "got missing: res3.1.conv2.norm.bias; superfluous: res3.1.conv4.weight, stem.extra"
    )


def test_head_of_other_widths():
    with pytest.raises(
        ValueError,
        match=r"^state_dict must have the tensors of a head with the widths 6-5-9; got of another shape: "
        r"projector.6.weight \[4, 5\] instead of \[9, 5\] \(the nearest architecture is a head with the widths 6-5-4",
    ):
        to_flax({f"projector.{k}": v for k, v in to_torch(random_variables(HEAD, 7), HEAD).items()}, Head((6, 5, 9)))


def test_shift_that_the_head_does_not_have():
    head = Head(dims=(6, 5, 4), **SimCLR.head_options)
    state_dict = to_torch(random_variables(head, 7), head)
    assert not state_dict["7.bias"].any()  # torch.nn.BatchNorm1d has a shift
    state_dict["7.bias"][0] = 1
    with pytest.raises(ValueError, match=r"^state_dict must have zeros for 7\.bias: the head has no such shift$"):
        to_flax(state_dict, head)


def test_bad_arguments():
    weights = random_variables(SMALL)
    with pytest.raises(
        ValueError, match=r"^model must be one of resnet_tiny, .*; got 'resnet51' \(did you mean 'resnet50'\?\)$"
    ):
        to_flax({}, "resnet51")
    with pytest.raises(TypeError, match=r"^model must be the name of a backbone, a ResNet, a ViT or a Head; got int$"):
        to_torch(weights, 50)
    with pytest.raises(ValueError, match=r"^style must be one of torchvision, .*, detectron2; got 'keras'$"):
        to_torch(weights, SMALL, style="keras")
    with pytest.raises(
        ValueError, match=r"^style must be one of torchvision, vicreg_fullckpt, moco for a head; got 'timm'$"
    ):
        to_torch(random_variables(HEAD, 7), HEAD, style="timm")
    with pytest.raises(ValueError, match=r"^style must be one of timm for a ViT; got 'torchvision'$"):
        to_torch(random_variables(VIT), VIT)
    with pytest.raises(ValueError, match=r"^state_dict must have the keys of a ViT \(.*\); got conv1.weight, bn1"):
        to_flax(to_torch(weights, SMALL), VIT)
    with pytest.raises(
        ValueError, match=r"^state_dict must have the keys of a ResNet \(.*\); got features.0.weight, x, y and 1 more$"
    ):
        to_flax({"features.0.weight": 1, "x": 1, "y": 1, "z": 1}, "resnet18")
    with pytest.raises(ValueError, match=r"^state_dict must have the keys of a head \(.*\); got conv1.weight, bn1"):
        to_flax(to_torch(weights, SMALL), HEAD)
    with pytest.raises(TypeError, match=r"^state_dict must have floating-point weights; got bn1.bias of int8$"):
        to_flax(to_torch(weights, SMALL) | {"bn1.bias": np.ones(4, np.int8)}, SMALL)


def test_variables_of_another_module():
    variables = random_variables(SMALL)
    with pytest.raises(
        ValueError, match=r"^variables must be those of resnet18; got missing: params/bn1/scale, .* more; of another"
    ):
        to_torch({"params": {"conv1": variables["params"]["conv1"]}}, "resnet18")
    del variables["batch_stats"]["bn1"]["mean"]
    variables["params"]["fc"] = {"bias": np.ones(2)}
    with pytest.raises(ValueError, match=r"missing: batch_stats/bn1/mean; superfluous: params/fc/bias$"):
        to_torch(variables, SMALL)
