"""What messages call an architecture: a module's, and the nearest one to the tensors of a file."""

import re
from collections.abc import Mapping

from vicreg_jax.interop.layout import Module
from vicreg_jax.models import RESNETS, TRANSFORMERS, Bottleneck, Head, ResNet, ViT

Shapes = Mapping[str, tuple[int, ...]]  # of the tensors, by key in `layout`


def describe(module: Module) -> str:
    """Its name, with what differs from `create_backbone(name)`."""
    if isinstance(module, Head):
        return _head(module.dims)
    if isinstance(module, ViT):
        return _vit(module.patch_size, module.dim, module.depth, module.pooling)
    for name, architecture in RESNETS.items():
        if (architecture.block, architecture.stage_sizes) == (module.block, tuple(module.stage_sizes)):
            return _resnet(name, module.filters / architecture.filters, module.stem)
    return f"a ResNet of {'-'.join(map(str, module.stage_sizes))} {module.block.__name__}s"


def nearest(module: Module, shapes: Shapes) -> str:
    """What a file is instead of `module`, as far as its keys and shapes say."""
    if isinstance(module, Head):
        return _head([shape[0] for shape in shapes.values() if len(shape) == 2])
    return _nearest_resnet(shapes) if isinstance(module, ResNet) else _nearest_vit(module, shapes)


def _nearest_resnet(shapes: Shapes) -> str:
    is_bottleneck = "layer1.0.conv3.weight" in shapes
    blocks = {match[0] for name in shapes if (match := re.match(r"layer(\d+)\.\d+\.", name))}
    stages = [int(re.findall(r"\d+", block)[0]) for block in blocks]
    sizes = [stages.count(stage) for stage in range(1, max(stages, default=0) + 1)]

    def distance(name: str) -> tuple[bool, int]:
        own = RESNETS[name].stage_sizes
        padded = [(*row, *[0] * (len(own) + len(sizes) - len(row))) for row in (own, sizes)]
        return (
            (RESNETS[name].block is Bottleneck) != is_bottleneck,
            sum(abs(a - b) for a, b in zip(*padded, strict=True)),
        )

    name = min(RESNETS, key=distance)
    filters, _, size = (*shapes.get("conv1.weight", ()), 0, 0, 0)[:3]
    width = filters / RESNETS[name].filters
    return _resnet(name, width or 1, "small" if size == 3 else "imagenet")


def _nearest_vit(module: ViT, shapes: Shapes) -> str:
    dim, _, patch_size = (*shapes.get("patch_embed.proj.weight", ()), module.dim, 0, module.patch_size)[:3]
    depth = len({match[0] for name in shapes if (match := re.match(r"blocks\.\d+\.", name))})
    return _vit(patch_size, dim, depth, "token" if "cls_token" in shapes else "mean")


def _head(widths: tuple[int, ...] | list[int]) -> str:
    return f"a head with the widths {'-'.join(map(str, widths))}"


def _resnet(name: str, width: float, stem: str) -> str:
    options = [f"width {width:g}"] * (width != 1) + [f"the {stem!r} stem"] * (stem != "imagenet")
    return name + (f" with {' and '.join(options)}" if options else "")


def _vit(patch_size: int, dim: int, depth: int, pooling: str) -> str:
    named = [
        name for name, vit in TRANSFORMERS.items() if (vit.patch_size, vit.dim, vit.depth) == (patch_size, dim, depth)
    ]
    name = named[0] if named else f"a ViT of {depth} blocks, {dim} wide, with patches of {patch_size} pixels"
    return name + " with mean pooling" * (pooling == "mean")
