"""What files call the tensors: prefixes and names of each style, and how a file's style is found."""

import re
from collections.abc import Callable, Collection
from typing import NamedTuple

from vicreg_jax.interop.layout import Module
from vicreg_jax.models import Head, ResNet, ViT


def _same(key: str) -> str:
    return key


def _to_detectron2(key: str) -> str:
    """`layer1.0.bn1.bias` is `res2.0.conv1.norm.bias`; the stem's tensors begin with `stem.`."""
    key = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", key)
    key = re.sub(r"^layer(\d+)", lambda match: f"res{int(match[1]) + 1}", key)
    key = key.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")
    return re.sub(r"\bbn(\d)\.", r"conv\1.norm.", key)


def _from_detectron2(key: str) -> str:
    key = re.sub(r"^res(\d+)", lambda match: f"layer{int(match[1]) - 1}", key.removeprefix("stem."))
    key = key.replace(".shortcut.norm.", ".downsample.1.").replace(".shortcut.", ".downsample.0.")
    return re.sub(r"\bconv(\d)\.norm\.", r"bn\1.", key)


class Naming(NamedTuple):
    """How a file names the tensors of a module: a prefix, and names that are those of `layout` or map to them."""

    prefix: str
    to_file: Callable[[str], str] = _same
    from_file: Callable[[str], str] = _same

    def key(self, key: str) -> str:
        """The file's key of a tensor with this key in `layout`."""
        return self.prefix + self.to_file(key)

    def own_keys(self, keys: Collection[str]) -> dict[str, str]:
        """The file's keys under the prefix, by the key in `layout`."""
        names = {self.from_file(key.removeprefix(self.prefix)): key for key in keys if key.startswith(self.prefix)}
        return {name: key for name, key in names.items() if not name.endswith("num_batches_tracked")}


class Style(NamedTuple):
    """A kind of file: its naming of a ResNet, and of a ViT and a head if it has any."""

    resnet: Naming
    vit: Naming | None = None
    head: Naming | None = None
    counts_batches: bool = True  # whether BatchNorm has num_batches_tracked

    def naming(self, model: Module) -> Naming | None:
        """The naming of that kind of module."""
        if isinstance(model, Head):
            return self.head
        return self.resnet if isinstance(model, ResNet) else self.vit


STYLES = {
    "torchvision": Style(Naming(""), head=Naming("")),
    "vicreg_fullckpt": Style(Naming("module.backbone."), head=Naming("module.projector.")),
    "moco": Style(Naming("module.encoder_q."), head=Naming("module.encoder_q.fc.")),
    "timm": Style(Naming(""), vit=Naming("")),
    "detectron2": Style(Naming("", _to_detectron2, _from_detectron2), counts_batches=False),
}
# Where a file has more than one network, as momentum methods do: the one that is trained, or detectron2's backbone.
_PREFERRED = ("", "module.", "module.backbone.", "backbone.", "module.encoder_q.", "encoder_q.")
# A key that every file has, and the naming that it tells.
_RESNETS = (("layer1.0.conv1.weight", Naming("")), ("res2.0.conv1.weight", STYLES["detectron2"].resnet))
_VITS = (("blocks.0.attn.qkv.weight", Naming("")),)
_HEADS = ("projector.", "encoder_q.fc.", "projection_head.", "fc.", "")


def kind_of(model: Module) -> str:
    """What messages call that kind of module."""
    if isinstance(model, Head):
        return "head"
    return "ResNet" if isinstance(model, ResNet) else "ViT"


def find_naming(keys: Collection[str], model: Module, prefix: str | None) -> Naming | None:
    """The naming of the module's tensors in a file with these keys, or `None` if they are not there.

    Args:
        keys: The keys of the file.
        model: The module.
        prefix: What the module's keys begin with; `None` to find it.

    Raises:
        ValueError: If several prefixes are possible, and none is preferred.
    """
    if isinstance(model, Head):
        prefixes = [module + head for head in _HEADS for module in ("module.", "")] if prefix is None else [prefix]
        return next((naming for naming in map(_head_naming, prefixes) if _has_head(keys, naming)), None)
    namings: dict[str, Naming] = {}
    for first_block, naming in _VITS if isinstance(model, ViT) else _RESNETS:
        found = [key.removesuffix(first_block) for key in keys if key.endswith(first_block)]
        namings |= {start: naming._replace(prefix=start) for start in found if not start or start[-1] == "."}
    if prefix is not None:
        return namings.get(prefix)
    if len(namings) > 1:
        preferred = [start for start in _PREFERRED if start in namings]
        if not preferred:
            raise ValueError(f"prefix must be one of {', '.join(namings)}, the {kind_of(model)}s of the file; got None")
        return namings[preferred[0]]
    return next(iter(namings.values()), None)


def _head_naming(prefix: str) -> Naming:
    if prefix.endswith("fc."):  # MoCo's head takes the place of the classifier, which is a single layer
        return Naming(prefix, _same, lambda key: re.sub(r"^(weight|bias)$", r"0.\1", key))
    return Naming(prefix)


def _has_head(keys: Collection[str], naming: Naming) -> bool:
    return "0.weight" in naming.own_keys(keys)
