"""Backbones by name."""

import difflib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vicreg_jax.models.resnet import STEMS, BasicBlock, Bottleneck, ResNet
from vicreg_jax.models.vit import POOLINGS, ViT


class Architecture(NamedTuple):
    """A ResNet in `BACKBONES`: arguments of `ResNet` at width 1."""

    block: type[BasicBlock] | type[Bottleneck]
    stage_sizes: tuple[int, ...]
    filters: int


class Transformer(NamedTuple):
    """A vision transformer in `BACKBONES`: arguments of `ViT` at width 1. A head has 64 dimensions."""

    patch_size: int
    heads: int
    depth: int = 12

    @property
    def dim(self) -> int:
        """Dimension of the tokens and of the features."""
        return self.heads * _HEAD_DIM


_HEAD_DIM = 64
RESNETS = {
    "resnet_tiny": Architecture(BasicBlock, (1, 1, 1), 16),
    "resnet18": Architecture(BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": Architecture(BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": Architecture(Bottleneck, (3, 4, 6, 3), 64),
    "resnet101": Architecture(Bottleneck, (3, 4, 23, 3), 64),
    "resnet152": Architecture(Bottleneck, (3, 8, 36, 3), 64),
    "resnet200": Architecture(Bottleneck, (3, 24, 36, 3), 64),
}
TRANSFORMERS = {
    f"vit_{size}_patch{patch_size}": Transformer(patch_size, heads)
    for size, heads in (("tiny", 3), ("small", 6), ("base", 12))
    for patch_size in (4, 8, 14, 16)
}
BACKBONES: dict[str, Architecture | Transformer] = {**RESNETS, **TRANSFORMERS}


def create_backbone(
    name: str,
    *,
    width: float = 1,
    stem: str = "imagenet",
    image_size: int = 224,
    pooling: str = "token",
    stochastic_depth: float = 0.0,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
) -> ResNet | ViT:
    """Create a backbone by name.

    Args:
        name: One of `BACKBONES`.
        width: Multiplies the channels of every layer, the features included, and rounds to whole channels. This is the
            official code's `widen`, not torchvision's `wide_resnet`, which widens the 3x3 convolutions only. Of a ViT
            it multiplies the attention heads, of 64 dimensions each.
        stem: Of a ResNet: one of `STEMS`; "imagenet" divides the resolution by 4, "small" keeps it.
        image_size: Of a ViT: see `ViT`.
        pooling: Of a ViT: one of `POOLINGS`, see `ViT`.
        stochastic_depth: Of a ViT: see `ViT`.
        dtype: Type of the computation, bfloat16 or float32. Parameters, statistics and features are float32.
        remat: See `ResNet` or `ViT`.

    Returns:
        A Linen module that maps images `[batch, height, width, channels]` to features `[batch, feature_dim]`.

    Raises:
        ValueError: If `name`, `stem` or `pooling` is unknown, `width` leaves no channel, or the patches of a ViT do not
            divide `image_size`.

    Example:
        >>> create_backbone("resnet50", width=2).feature_dim
        4096
    """
    if name not in BACKBONES:
        close = difflib.get_close_matches(str(name), BACKBONES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"name must be one of {', '.join(BACKBONES)}; got {name!r}{hint}")
    if stem not in STEMS:
        raise ValueError(f"stem must be one of {', '.join(STEMS)}; got {stem!r}")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}; got {pooling!r}")
    architecture = BACKBONES[name]
    if isinstance(architecture, Transformer):
        heads = round(architecture.heads * width)
        if heads < 1:
            raise ValueError(
                f"width must be a number that leaves at least one of {architecture.heads} heads; got {width!r}"
            )
        if image_size % architecture.patch_size:
            raise ValueError(
                f"image_size must be a multiple of {architecture.patch_size}, the patches of {name}; got {image_size}"
            )
        return ViT(
            architecture.patch_size,
            heads * _HEAD_DIM,
            architecture.depth,
            heads,
            image_size,
            pooling,
            stochastic_depth,
            dtype,
            remat,
        )
    filters = round(architecture.filters * width)
    if filters < 1:
        raise ValueError(
            f"width must be a number that leaves at least one of {architecture.filters} channels; got {width!r}"
        )
    return ResNet(architecture.block, architecture.stage_sizes, filters, stem, dtype, remat)


def fastest_on(platform: str, backbone: ResNet | ViT) -> ResNet | ViT:
    """Return a backbone in the form that is fastest on "cpu", "gpu" or "tpu"; its results are the same up to rounding.

    On GPUs and TPUs, in 16 bits, the BatchNorm of bottlenecks is folded; see `ResNet`.
    """
    if platform not in ("gpu", "tpu") or not isinstance(backbone, ResNet):
        return backbone
    return backbone.clone(folded=backbone.block is Bottleneck and jnp.finfo(backbone.dtype).bits == 16)


def input_channels(variables: Mapping[str, Any]) -> int:
    """Channels of the images that a backbone was made for.

    Args:
        variables: Variables of a backbone, as arrays or `jax.ShapeDtypeStruct`.
    """
    params = variables["params"]
    first = params["patch_embed"]["proj"] if "patch_embed" in params else params["conv1"]
    channels: int = first["kernel"].shape[2]
    return channels


def count_parameters(variables: Mapping[str, Any]) -> int:
    """Count the trainable parameters of a module: those in "params", without the running statistics.

    Args:
        variables: Variables of a module, as arrays or `jax.ShapeDtypeStruct`.
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
