"""The tensors of a backbone and of a head: PyTorch's key and shape of each, and its place in Flax's variables.

Keys of a ResNet are torchvision's, of a ViT timm's, of a head those of `nn.Sequential(Linear, BatchNorm1d, ReLU, ...)`.
They follow from the attributes of the module alone, since tracing a large network for its shapes would take seconds.
"""

from collections.abc import Iterator
from typing import NamedTuple

from vicreg_jax.models import Bottleneck, Head, ResNet, ViT

Module = ResNet | ViT | Head
Path = tuple[str, ...]


class Slot(NamedTuple):
    """One tensor: its key and shape in PyTorch, and its path in Flax.

    The path is `None` for a tensor that PyTorch has and Flax does not: the shift of a BatchNorm without one, zeros.
    """

    key: str
    shape: tuple[int, ...]
    path: Path | None


def slots_of(model: Module, inputs: int) -> list[Slot]:
    """All tensors of the module, in PyTorch's order, without `num_batches_tracked`.

    Args:
        model: The module.
        inputs: Channels of the images, or width of the features that enter the head.
    """
    if isinstance(model, Head):
        return list(_head(model, inputs))
    return list(_resnet(model, inputs) if isinstance(model, ResNet) else _vit(model, inputs))


def first_key(model: Module) -> str:
    """The key of the first weight, whose second dimension is `inputs`."""
    if isinstance(model, Head):
        return "0.weight"
    return "conv1.weight" if isinstance(model, ResNet) else "patch_embed.proj.weight"


def _resnet(model: ResNet, channels: int) -> Iterator[Slot]:
    yield from _conv("conv1", model.filters, channels, 7 if model.stem == "imagenet" else 3)
    yield from _batch_norm("bn1", model.filters)
    channels = model.filters
    for stage, blocks in enumerate(model.stage_sizes):
        inner = model.filters * 2**stage
        outputs = inner * model.block.expansion
        # Outputs, inputs and size of each convolution of a block.
        for index in range(blocks):
            block = f"layer{stage + 1}.{index}"
            if model.block is Bottleneck:
                convolutions = [(inner, channels, 1), (inner, inner, 3), (outputs, inner, 1)]
            else:
                convolutions = [(inner, channels, 3), (inner, inner, 3)]
            for number, (out, into, size) in enumerate(convolutions, start=1):
                yield from _conv(f"{block}.conv{number}", out, into, size)
                yield from _batch_norm(f"{block}.bn{number}", out)
            if channels != outputs or (stage > 0 and index == 0):
                yield from _conv(f"{block}.downsample.0", outputs, channels, 1)
                yield from _batch_norm(f"{block}.downsample.1", outputs)
            channels = outputs


def _vit(model: ViT, channels: int) -> Iterator[Slot]:
    dim, tokens = model.dim, 1 if model.pooling == "token" else 0
    if tokens:
        yield Slot("cls_token", (1, 1, dim), ("params", "cls_token"))
    positions = tokens + (model.image_size // model.patch_size) ** 2
    yield Slot("pos_embed", (1, positions, dim), ("params", "pos_embed"))
    patch = (model.patch_size, model.patch_size)
    yield from _affine("patch_embed.proj", (dim, channels, *patch), "kernel")
    for index in range(model.depth):
        block = f"blocks.{index}"
        yield from _affine(f"{block}.norm1", (dim,), "scale")
        yield from _affine(f"{block}.attn.qkv", (3 * dim, dim), "kernel")
        yield from _affine(f"{block}.attn.proj", (dim, dim), "kernel")
        yield from _affine(f"{block}.norm2", (dim,), "scale")
        yield from _affine(f"{block}.mlp.fc1", (4 * dim, dim), "kernel")
        yield from _affine(f"{block}.mlp.fc2", (dim, 4 * dim), "kernel")
    yield from _affine("norm", (dim,), "scale")


def _affine(key: str, shape: tuple[int, ...], weight: str) -> Iterator[Slot]:
    """A weight, whose name in Flax is given, and a bias. `blocks.0.attn.qkv` is `blocks_0/attn/qkv`."""
    path = ("params", *key.replace("blocks.", "blocks_").split("."))
    yield Slot(f"{key}.weight", shape, (*path, weight))
    yield Slot(f"{key}.bias", shape[:1], (*path, "bias"))


def _head(model: Head, inputs: int) -> Iterator[Slot]:
    last = len(model.dims) - 1
    for index, dim in enumerate(model.dims):
        position = index * (3 if model.batch_norm else 2)  # Linear, BatchNorm1d, ReLU
        dense = ("params", f"dense_{index}")
        yield Slot(f"{position}.weight", (dim, inputs), (*dense, "kernel"))
        if model.output_bias if index == last else model.hidden_bias or not model.batch_norm:
            yield Slot(f"{position}.bias", (dim,), (*dense, "bias"))
        if model.batch_norm and (index < last or model.output_norm != "none"):
            affine = index < last or model.output_norm == "scale"
            yield from _batch_norm(
                f"{position + 1}", dim, (f"batch_norm_{index}",), affine=affine, has_shift=index < last
            )
        inputs = dim


def _flax_path(key: str) -> Path:
    """`layer1.0.downsample.0` is `layer1_0/downsample_0`."""
    *block, name = key.replace("downsample.", "downsample_").rsplit(".", 1)
    return (*(part.replace(".", "_") for part in block), name)


def _conv(key: str, outputs: int, inputs: int, size: int) -> Iterator[Slot]:
    yield Slot(f"{key}.weight", (outputs, inputs, size, size), ("params", *_flax_path(key), "kernel"))


def _batch_norm(
    key: str, channels: int, path: Path | None = None, *, affine: bool = True, has_shift: bool = True
) -> Iterator[Slot]:
    path = path or _flax_path(key)
    if affine:
        yield Slot(f"{key}.weight", (channels,), ("params", *path, "scale"))
        yield Slot(f"{key}.bias", (channels,), ("params", *path, "bias") if has_shift else None)
    yield Slot(f"{key}.running_mean", (channels,), ("batch_stats", *path, "mean"))
    yield Slot(f"{key}.running_var", (channels,), ("batch_stats", *path, "var"))
