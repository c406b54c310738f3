"""Weights of a backbone or a head between PyTorch's state dicts and Flax's variables."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vicreg_jax.interop.architectures import describe, nearest
from vicreg_jax.interop.layout import Module, first_key, slots_of
from vicreg_jax.interop.styles import STYLES, Naming, find_naming, kind_of
from vicreg_jax.models import Head, ViT, create_backbone, resize_positions

# What stands beside the backbone's tensors in files of classifiers, SwAV, Barlow Twins and SimSiam.
_OTHER_PARTS = ("fc.", "head.", "projector.", "projection_head.", "prototypes.", "predictor.", "bn.")
_A_KEY = {"ResNet": "layer1.0.conv1.weight", "ViT": "blocks.0.attn.qkv.weight", "head": "projector.0.weight"}


def to_flax(state_dict: Mapping[str, Any], model: str | Module, *, prefix: str | None = None) -> dict[str, Any]:
    """Convert the weights of a PyTorch state dict for a module.

    The keys tell their style. A ResNet's are torchvision's (also those of timm and of the official `resnet50.pth` of
    VICReg and Barlow Twins) or detectron2's; a ViT's are timm's. Each may stand behind any prefix, such as
    `module.backbone.` in the official full checkpoints or `module.encoder_q.` in MoCo's. Other parts of a checkpoint
    are left out: those behind another prefix, a classifier `fc` or `head`, projectors and predictors.

    Args:
        state_dict: Arrays by key, such as `load_torch` returns.
        model: A name of `BACKBONES` for what `create_backbone` makes of it without options, or a `ResNet`, a `ViT` or a
            `Head`. No key tells the attention heads of a ViT: they are the model's.
        prefix: What the keys of the module begin with, such as "teacher.backbone."; `None` to find it.

    Returns:
        Variables for `model.apply`: `{"params": ..., "batch_stats": ...}` with NumPy arrays in float32; a ViT has no
        "batch_stats". The first convolution of a backbone has the file's number of input channels. The position
        embeddings of a ViT are interpolated if the file has those for another image size: see `resize_positions`.

    Raises:
        TypeError: If `model` is none of these, or the file's weights are not floating-point.
        ValueError: If `model` is no known name, or the file has no such module, or keys are missing or superfluous or
            shapes differ; the message lists them and names the nearest architecture.

    Example:
        >>> variables = to_flax(load_torch("resnet50.pth"), "resnet50")  # doctest: +SKIP
    """
    module = _module(model)
    naming = find_naming(state_dict, module, prefix)
    if naming is None:
        kind = f"{kind_of(module)} (`{_A_KEY[kind_of(module)]}`)"
        where = "" if prefix is None else f" behind the prefix {prefix!r}"
        raise ValueError(f"state_dict must have the keys of a {kind}{where}; got {_list(state_dict)}")
    keys = {
        name: key
        for name, key in naming.own_keys(state_dict).items()
        if isinstance(module, Head) or not name.startswith(_OTHER_PARTS)
    }
    arrays = {name: np.asarray(state_dict[key]) for name, key in keys.items()}
    if isinstance(module, ViT) and "pos_embed" in arrays:
        arrays["pos_embed"] = _fit_positions(arrays["pos_embed"], module)
    shapes = {name: array.shape for name, array in arrays.items()}
    slots = slots_of(module, _inputs(shapes.get(first_key(module), ())))
    is_other = nearest(module, shapes) != describe(module)
    _check_fit(
        f"state_dict must have the tensors of {describe(module)}",
        {slot.key: slot.shape for slot in slots},
        shapes,
        show=lambda name: keys.get(name, naming.key(name)),
        hint=f" (the nearest architecture is {nearest(module, shapes)})" if is_other else "",
    )
    variables = {}
    for slot in slots:
        array = arrays[slot.key]
        if array.dtype.kind not in "fV":  # the 16-bit and 8-bit floats of ml_dtypes are of kind V
            raise TypeError(f"state_dict must have floating-point weights; got {keys[slot.key]} of {array.dtype}")
        if slot.path:
            variables[slot.path] = np.array(_to_flax_axes(array), np.float32, order="C")
        elif array.any():
            raise ValueError(f"state_dict must have zeros for {keys[slot.key]}: the head has no such shift")
    return unflatten_dict(variables)


def to_torch(variables: Mapping[str, Any], model: str | Module, *, style: str = "torchvision") -> dict[str, np.ndarray]:
    """Convert the variables of a module to a PyTorch state dict.

    Args:
        variables: `{"params": ..., "batch_stats": ...}` of the module.
        model: See `to_flax`.
        style: One of `STYLES`; of a ViT "timm". A `Head` has no keys in "timm" and "detectron2". In "torchvision" its
            keys are those of an `nn.Sequential`.

    Returns:
        NumPy arrays by key, in PyTorch's order, each contiguous and with memory of its own; float32, but
        `num_batches_tracked` is an int64 zero.

    Raises:
        TypeError: If `model` is neither a name nor a module.
        ValueError: If `style` is unknown or has no keys for the module, or the variables are not the module's.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> head = Head(dims=(4, 2))
        >>> variables = jax.jit(head.init)(jax.random.key(0), jnp.zeros((1, 8)))
        >>> {key: array.shape for key, array in to_torch(variables, head).items() if key.endswith("weight")}
        {'0.weight': (4, 8), '1.weight': (4,), '3.weight': (2, 4)}
    """
    module = _module(model)
    naming = _naming(module, style)
    arrays = {path: np.asarray(array) for path, array in flatten_dict(variables).items()}
    first = next(slot.path for slot in slots_of(module, 1) if slot.key == first_key(module))
    slots = slots_of(module, _inputs(_to_torch_axes(arrays.get(first, np.empty(()))).shape))
    _check_fit(
        f"variables must be those of {describe(module)}",
        {"/".join(slot.path): slot.shape for slot in slots if slot.path},
        {"/".join(path): _to_torch_axes(array).shape for path, array in arrays.items()},
    )
    state_dict = {}
    for slot in slots:
        array = _to_torch_axes(arrays[slot.path]) if slot.path else np.zeros(slot.shape)
        state_dict[naming.key(slot.key)] = np.array(array, np.float32, order="C")
        if slot.key.endswith("running_var") and STYLES[style].counts_batches:
            counter = slot.key.replace("running_var", "num_batches_tracked")
            state_dict[naming.key(counter)] = np.zeros((), np.int64)
    return state_dict


def _module(model: str | Module) -> Module:
    module: Any = model
    if isinstance(model, str):
        try:
            module = create_backbone(model)
        except ValueError as error:
            raise ValueError(str(error).replace("name must", "model must", 1)) from error
    if not isinstance(module, Module):
        raise TypeError(f"model must be the name of a backbone, a ResNet, a ViT or a Head; got {type(module).__name__}")
    return module


def _naming(module: Module, style: str) -> Naming:
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}; got {style!r}")
    naming = STYLES[style].naming(module)
    if naming is None:
        styles = [name for name, style in STYLES.items() if style.naming(module)]
        raise ValueError(f"style must be one of {', '.join(styles)} for a {kind_of(module)}; got {style!r}")
    if style == "moco" and isinstance(module, Head) and len(module.dims) == 1:
        # A single layer takes the place of the classifier.
        return naming._replace(to_file=lambda key: key.removeprefix("0."))
    return naming


def _fit_positions(positions: np.ndarray, vit: ViT) -> np.ndarray:
    """Position embeddings for the ViT's image size. What are not those of a square grid stay: they will not fit."""
    tokens, side = int(vit.pooling == "token"), vit.image_size // vit.patch_size
    count = positions.shape[1] - tokens if positions.ndim == 3 else 0
    if count < 1 or math.isqrt(count) ** 2 != count or count == side**2:
        return positions
    return np.asarray(resize_positions(jnp.asarray(positions, jnp.float32), tokens, (side, side)))


def _to_flax_axes(array: np.ndarray) -> np.ndarray:
    """Of a convolution or a matrix; vectors, and a ViT's tokens and positions, have the same axes in both."""
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, range(array.ndim)))


def _to_torch_axes(array: np.ndarray) -> np.ndarray:
    return array.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, range(array.ndim)))


def _inputs(shape: tuple[int, ...]) -> int:
    """Input channels of the first weight. Without one any number will do: what is missing is listed."""
    return shape[1] if len(shape) in (2, 4) else 3


def _check_fit(
    rule: str,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    *,
    show: Callable[[str], str] = str,
    hint: str = "",
) -> None:
    """Raise one line that lists what is missing, superfluous, or of another shape."""
    faults = {
        "missing": [show(key) for key in expected if key not in found],
        "superfluous": [show(key) for key in found if key not in expected],
        "of another shape": [
            f"{show(key)} {list(found[key])} instead of {list(shape)}"
            for key, shape in expected.items()
            if key in found and found[key] != shape
        ],
    }
    listed = [f"{fault}: {_list(keys)}" for fault, keys in faults.items() if keys]
    if listed:
        raise ValueError(f"{rule}; got {'; '.join(listed)}{hint}")


def _list(keys: Iterable[str], most: int = 3) -> str:
    keys = list(keys)
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "") or "no keys"
