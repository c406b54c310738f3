"""`to_flax` and `to_torch`: shapes, round trips bit for bit, and styles of keys."""

import doctest

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.interop.variables import random_variables
from vicreg_jax.interop import STYLES, convert, to_flax, to_torch
from vicreg_jax.methods import METHODS
from vicreg_jax.models import RESNETS, STEMS, TRANSFORMERS, Bottleneck, Head, ResNet, ViT, create_backbone
from vicreg_jax.models.vit import POOLINGS, resize_positions

SMALL = ResNet(Bottleneck, stage_sizes=(1, 2), filters=4)
VIT = ViT(patch_size=2, dim=6, depth=2, heads=3, image_size=8)
HEAD = Head(dims=(6, 5, 4))
HEADS = {
    "vicreg": HEAD,
    "one_layer": Head(dims=(4,), output_bias=True),
    "without_norm": Head(dims=(6, 4), batch_norm=False),
    **{name: Head(dims=(6, 5, 4), **method.head_options) for name, method in METHODS.items()},
}
LARGE = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200", *TRANSFORMERS)


def slow_if_large(names):
    return [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in names]


def network(name, width, stem):
    if name == "small":
        return ResNet(Bottleneck, stage_sizes=(1, 2), filters=4 * width, stem=stem)
    return create_backbone(name, width=width, stem=stem)


def vision_transformer(name, pooling):
    return VIT.clone(pooling=pooling) if name == "small" else create_backbone(name, pooling=pooling)


def assert_same_bits(left, right):
    left, right = flatten_dict(left), flatten_dict(right)
    assert left.keys() == right.keys()
    for path, array in left.items():
        assert (array.dtype, array.shape) == (right[path].dtype, right[path].shape), path
        assert array.tobytes() == right[path].tobytes(), path


def flax_shapes(model, inputs):
    return jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(model.init, jax.random.key(0), inputs))


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("name", slow_if_large(["small", *RESNETS]))
def test_tensors_of_a_resnet_are_those_of_flax(name, width, stem):
    model = network(name, width, stem)
    size = model.minimum_image_size
    shapes = flax_shapes(model, jnp.zeros((1, size, size, 5)))
    assert jax.tree.map(np.shape, random_variables(model, 5)) == shapes


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", slow_if_large(["small", *TRANSFORMERS]))
def test_tensors_of_a_vit_are_those_of_flax(name, pooling):
    model = vision_transformer(name, pooling)
    shapes = flax_shapes(model, jnp.zeros((1, model.image_size, model.image_size, 5)))
    assert jax.tree.map(np.shape, random_variables(model, 5)) == shapes


@pytest.mark.parametrize("name", HEADS)
def test_tensors_of_a_head_are_those_of_flax(name):
    shapes = flax_shapes(HEADS[name], jnp.zeros((1, 7)))
    assert jax.tree.map(np.shape, random_variables(HEADS[name], 7)) == shapes


@pytest.mark.parametrize(("width", "stem"), [(1, "imagenet"), (2, "imagenet"), (1, "small")])
@pytest.mark.parametrize("name", slow_if_large(["small", *RESNETS]))
def test_round_trip_of_a_resnet(name, width, stem):
    model = network(name, width, stem)
    variables = random_variables(model)
    # The other styles differ by a prefix, and a wide network takes seconds.
    for style in ("torchvision", "detectron2") if width == 1 else ("torchvision",):
        assert_same_bits(to_flax(to_torch(variables, model, style=style), model), variables)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", slow_if_large(["small", *TRANSFORMERS]))
def test_round_trip_of_a_vit(name, pooling):
    model = vision_transformer(name, pooling)
    variables = random_variables(model)
    assert_same_bits(to_flax(to_torch(variables, model, style="timm"), model), variables)


@pytest.mark.parametrize("style", STYLES)
def test_round_trip_by_style(style):
    variables = random_variables(SMALL, 1)
    state_dict = to_torch(variables, SMALL, style=style)
    assert_same_bits(to_flax(state_dict, SMALL), variables)
    in_a_wrapper = {f"model.{key}": array for key, array in state_dict.items()}
    assert_same_bits(to_flax(in_a_wrapper, SMALL), variables)


@pytest.mark.parametrize("style", [name for name, style in STYLES.items() if style.head])
@pytest.mark.parametrize("name", HEADS)
def test_round_trip_of_a_head(name, style):
    variables = random_variables(HEADS[name], 7)
    state_dict = to_torch(variables, HEADS[name], style=style)
    assert_same_bits(to_flax(state_dict, HEADS[name]), variables)
    backbone = to_torch(random_variables(SMALL), SMALL, style=style)
    if style != "torchvision":  # there a head is a file of its own
        assert_same_bits(to_flax(backbone | state_dict, HEADS[name]), variables)
        assert_same_bits(to_flax(backbone | state_dict, SMALL), random_variables(SMALL))


def test_axes():
    variables = random_variables(SMALL)
    state_dict = to_torch(variables, SMALL)
    kernel = variables["params"]["layer2_0"]["conv2"]["kernel"]
    assert state_dict["layer2.0.conv2.weight"][5, 3, 2, 1] == kernel[2, 1, 3, 5]
    dense = random_variables(HEAD, 7)
    assert to_torch(dense, HEAD)["0.weight"][4, 6] == dense["params"]["dense_0"]["kernel"][6, 4]
    vit = random_variables(VIT)
    converted = to_torch(vit, VIT, style="timm")
    kernel = vit["params"]["patch_embed"]["proj"]["kernel"]
    assert converted["patch_embed.proj.weight"][5, 2, 1, 0] == kernel[1, 0, 2, 5]
    assert converted["pos_embed"][0, 9, 5] == vit["params"]["pos_embed"][0, 9, 5]


def test_keys_of_a_vit():
    prefix = [
        f"{name}.{kind}"
        for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    ]
    blocks = [f"blocks.{index}.{key}" for index in range(2) for key in prefix]
    expected = ["pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", *blocks, "norm.weight", "norm.bias"]
    assert list(to_torch(random_variables(VIT), VIT, style="timm")) == ["cls_token", *expected]
    mean = VIT.clone(pooling="mean")
    assert list(to_torch(random_variables(mean), mean, style="timm")) == expected


def test_positions_of_another_image_size_are_interpolated():
    """As the network itself does, in float32; what is no square grid is refused."""
    large = VIT.clone(image_size=12)
    variables = random_variables(large)
    state_dict = to_torch(variables, large, style="timm")
    positions = variables["params"]["pos_embed"]
    found = to_flax({"module." + key: array.astype(np.float16) for key, array in state_dict.items()}, VIT)
    rounded = jnp.asarray(positions.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(found["params"].pop("pos_embed"), resize_positions(rounded, 1, (4, 4)))
    state_dict["pos_embed"] = positions[:, :36]
    with pytest.raises(ValueError, match=r"got of another shape: pos_embed \[1, 36, 6\] instead of \[1, 17, 6\]$"):
        to_flax(state_dict, VIT)


def test_keys_of_each_style():
    backbone, head = random_variables(SMALL), random_variables(HEAD, 7)
    names = ["conv1.weight", "bn1.bias", "layer2.1.bn3.running_var", "layer2.0.downsample.0.weight"]
    detectron2 = [
        "stem.conv1.weight",
        "stem.conv1.norm.bias",
        "res3.1.conv3.norm.running_var",
        "res3.0.shortcut.weight",
        "res3.0.shortcut.norm.weight",
    ]
    assert {*names, "layer2.0.downsample.1.num_batches_tracked"} < set(to_torch(backbone, SMALL))
    assert list(to_torch(backbone, SMALL, style="timm")) == list(to_torch(backbone, SMALL))
    assert {f"module.backbone.{name}" for name in names} < set(to_torch(backbone, SMALL, style="vicreg_fullckpt"))
    assert {f"module.encoder_q.{name}" for name in names} < set(to_torch(backbone, SMALL, style="moco"))
    written = to_torch(backbone, SMALL, style="detectron2")
    assert set(detectron2) < set(written)
    assert not any("num_batches_tracked" in key or "layer" in key or "bn" in key for key in written)
    assert list(to_torch(head, HEAD, style="vicreg_fullckpt")) == [
        "module.projector.0.weight",
        "module.projector.0.bias",
        *(f"module.projector.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        "module.projector.1.num_batches_tracked",
        "module.projector.3.weight",
        "module.projector.3.bias",
        *(f"module.projector.4.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        "module.projector.4.num_batches_tracked",
        "module.projector.6.weight",
    ]
    moco = Head(dims=(6, 4), batch_norm=False, output_bias=True)
    prefix = "module.encoder_q.fc."
    assert list(to_torch(random_variables(moco, 7), moco, style="moco")) == [
        f"{prefix}{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")
    ]
    one = HEADS["one_layer"]
    assert list(to_torch(random_variables(one, 7), one, style="moco")) == [f"{prefix}weight", f"{prefix}bias"]


@pytest.mark.parametrize(("name", "count"), [("resnet18", 122), ("resnet50", 320)])
def test_torchvision_has_as_many_keys(name, count):
    state_dict = to_torch(random_variables(create_backbone(name)), name)
    assert len(state_dict) == count - 2  # without fc.weight and fc.bias
    assert list(state_dict)[:6] == [
        "conv1.weight",
        *(f"bn1.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    ]


def test_other_parts_of_a_checkpoint_are_left_out():
    variables = random_variables(SMALL)
    extra = np.ones((3, 3), np.float32)
    plain = to_torch(variables, SMALL) | {"fc.weight": extra, "fc.bias": extra[0]}
    assert_same_bits(to_flax(plain, SMALL), variables)
    swav = {f"module.{key}": array for key, array in plain.items()} | {"module.projection_head.0.weight": extra}
    assert_same_bits(to_flax(swav, SMALL), variables)
    zeros = jax.tree.map(np.zeros_like, variables)
    moco = to_torch(variables, SMALL, style="moco") | {"module.queue": extra, "module.encoder_q.fc.weight": extra}
    moco |= {f"module.encoder_k.{key}": array for key, array in to_torch(zeros, SMALL).items()}
    assert_same_bits(to_flax(moco, SMALL), variables)
    detector = {f"backbone.bottom_up.{k}": v for k, v in to_torch(variables, SMALL, style="detectron2").items()}
    assert_same_bits(to_flax(detector | {"roi_heads.box_head.fc1.weight": extra}, SMALL), variables)
    assert_same_bits(to_flax({k: v for k, v in plain.items() if "num_batches" not in k}, SMALL), variables)
    vit = random_variables(VIT)
    masked = {f"encoder.{key}": array for key, array in to_torch(vit, VIT, style="timm").items()}
    masked |= {"encoder.head.weight": extra, "decoder_blocks.0.attn.qkv.weight": extra, "mask_token": extra}
    assert_same_bits(to_flax(masked, VIT), vit)


def test_prefix_chooses_between_two_networks():
    student, teacher = random_variables(SMALL), jax.tree.map(np.zeros_like, random_variables(SMALL))
    both = {f"student.{key}": array for key, array in to_torch(student, SMALL).items()}
    both |= {f"teacher.{key}": array for key, array in to_torch(teacher, SMALL).items()}
    assert_same_bits(to_flax(both, SMALL, prefix="teacher."), teacher)
    with pytest.raises(ValueError, match=r"^prefix must be one of student\., teacher\., the ResNets of the file; got "):
        to_flax(both, SMALL)
    with pytest.raises(ValueError, match=r"^state_dict must have the keys of a ResNet .* behind the prefix 'ema.'; "):
        to_flax(both, SMALL, prefix="ema.")
    head = random_variables(HEAD, 7)
    assert_same_bits(to_flax({f"online.{k}": v for k, v in to_torch(head, HEAD).items()}, HEAD, prefix="online."), head)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32(dtype):
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), random_variables(SMALL))
    expected = jax.tree.map(lambda leaf: leaf.astype(np.float32), variables)
    state_dict = {key: array.astype(dtype) for key, array in to_torch(variables, SMALL).items()}
    assert_same_bits(to_flax(state_dict, SMALL), expected)


def test_arrays_have_memory_of_their_own():
    variables = random_variables(SMALL)
    state_dict = to_torch(variables, SMALL)
    for array in state_dict.values():
        assert array.flags.c_contiguous
        assert array.flags.writeable
        array[...] = 7
    assert_same_bits(variables, random_variables(SMALL))


def test_jax_arrays_are_converted():
    variables = random_variables(SMALL)
    assert to_torch(jax.tree.map(jnp.asarray, variables), SMALL)["bn1.bias"].tolist() == list(
        variables["params"]["bn1"]["bias"]
    )


def test_docstring_examples():
    result = doctest.testmod(convert)
    assert result.attempted > 0
    assert result.failed == 0
