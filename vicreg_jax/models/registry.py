"""Backbones by name."""

import difflib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vicreg_jax.models.resnet import STEMS, BasicBlock, Bottleneck, ResNet


class Architecture(NamedTuple):
    """An entry of `BACKBONES`: arguments of `ResNet` at width 1."""

    block: type[BasicBlock] | type[Bottleneck]
    stage_sizes: tuple[int, ...]
    filters: int


BACKBONES = {
    "resnet_tiny": Architecture(BasicBlock, (1, 1, 1), 16),
    "resnet18": Architecture(BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": Architecture(BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": Architecture(Bottleneck, (3, 4, 6, 3), 64),
    "resnet101": Architecture(Bottleneck, (3, 4, 23, 3), 64),
    "resnet152": Architecture(Bottleneck, (3, 8, 36, 3), 64),
    "resnet200": Architecture(Bottleneck, (3, 24, 36, 3), 64),
}


def create_backbone(
    name: str,
    *,
    width: float = 1,
    stem: str = "imagenet",
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
) -> ResNet:
    """Create a backbone by name.

    Args:
        name: One of `BACKBONES`.
        width: Multiplies the channels of every layer, the features included, and rounds to whole channels. This is the
            official code's `widen`, not torchvision's `wide_resnet`, which widens the 3x3 convolutions only.
        stem: One of `STEMS`; "imagenet" divides the resolution by 4, "small" keeps it.
        dtype: Type of the computation, bfloat16 or float32. Parameters, statistics and features are float32.
        remat: See `ResNet`.

    Returns:
        A Linen module that maps images `[batch, height, width, channels]` to features `[batch, feature_dim]`.

    Raises:
        ValueError: If `name` or `stem` is unknown, or `width` leaves no channel.

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
    architecture = BACKBONES[name]
    filters = round(architecture.filters * width)
    if filters < 1:
        raise ValueError(
            f"width must be a number that leaves at least one of {architecture.filters} channels; got {width!r}"
        )
    return ResNet(architecture.block, architecture.stage_sizes, filters, stem, dtype, remat)


def count_parameters(variables: Mapping[str, Any]) -> int:
    """Count the trainable parameters of a module: those in "params", without the running statistics.

    Args:
        variables: Variables of a module, as arrays or `jax.ShapeDtypeStruct`.
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
