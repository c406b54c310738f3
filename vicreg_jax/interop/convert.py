"""Weights of a ResNet or a head between PyTorch's state dicts and Flax's variables."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vicreg_jax.interop.layout import first_key, slots_of
from vicreg_jax.interop.styles import STYLES, Naming, find_naming
from vicreg_jax.models import RESNETS, Bottleneck, Head, ResNet, create_backbone

# What stands beside the backbone's tensors in files of classifiers, SwAV, Barlow Twins and SimSiam.
_OTHER_PARTS = ("fc.", "projector.", "projection_head.", "prototypes.", "predictor.", "bn.")


def to_flax(state_dict: Mapping[str, Any], model: str | ResNet | Head, *, prefix: str | None = None) -> dict[str, Any]:
    """Convert the weights of a PyTorch state dict for a module.

    The keys tell their style: torchvision's (also that of timm and of the official `resnet50.pth` of VICReg and Barlow
    Twins) or detectron2's, each behind any prefix (`module.backbone.` in the official full checkpoints,
    `module.encoder_q.` in MoCo's). Other parts of a checkpoint are left out: those behind another prefix, a classifier
    `fc`, projectors and predictors.

    Args:
        state_dict: Arrays by key, such as `load_torch` returns.
        model: A name of `RESNETS` for that ResNet with width 1 and the "imagenet" stem, or a `ResNet`, or a `Head`.
        prefix: What the keys of the module begin with, such as "teacher.backbone."; `None` to find it.

    Returns:
        Variables for `model.apply`: `{"params": ..., "batch_stats": ...}` with NumPy arrays in float32. The first
        convolution of a ResNet has the file's number of input channels.

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
        kind = "ResNet (`layer1.0.conv1.weight`)" if isinstance(module, ResNet) else "head (`projector.0.weight`)"
        where = "" if prefix is None else f" behind the prefix {prefix!r}"
        raise ValueError(f"state_dict must have the keys of a {kind}{where}; got {_list(state_dict)}")
    keys = {
        name: key
        for name, key in naming.own_keys(state_dict).items()
        if not (isinstance(module, ResNet) and name.startswith(_OTHER_PARTS))
    }
    arrays = {name: np.asarray(state_dict[key]) for name, key in keys.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    slots = slots_of(module, _inputs(shapes.get(first_key(module), ())))
    _check_fit(
        f"state_dict must have the tensors of {_describe(module)}",
        {slot.key: slot.shape for slot in slots},
        shapes,
        show=lambda name: keys.get(name, naming.key(name)),
        hint=_nearest(module, shapes),
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


def to_torch(
    variables: Mapping[str, Any], model: str | ResNet | Head, *, style: str = "torchvision"
) -> dict[str, np.ndarray]:
    """Convert the variables of a module to a PyTorch state dict.

    Args:
        variables: `{"params": ..., "batch_stats": ...}` of the module.
        model: See `to_flax`.
        style: One of `STYLES`. A `Head` has no keys in "timm" and "detectron2". In "torchvision" its keys are those of
            an `nn.Sequential`.

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
    kernels = {path[1:]: array for path, array in arrays.items()}
    first = kernels.get(("conv1", "kernel") if isinstance(module, ResNet) else ("dense_0", "kernel"), np.empty(()))
    slots = slots_of(module, _inputs(_to_torch_axes(first).shape))
    _check_fit(
        f"variables must be those of {_describe(module)}",
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


def _module(model: str | ResNet | Head) -> ResNet | Head:
    module: Any = model
    if isinstance(model, str):
        try:
            module = create_backbone(model)
        except ValueError as error:
            raise ValueError(str(error).replace("name must", "model must", 1)) from error
    if not isinstance(module, ResNet | Head):
        raise TypeError(f"model must be the name of a ResNet, a ResNet or a Head; got {type(module).__name__}")
    return module


def _naming(module: ResNet | Head, style: str) -> Naming:
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}; got {style!r}")
    if isinstance(module, ResNet):
        return STYLES[style].backbone
    naming = STYLES[style].head
    if naming is None:
        styles = [name for name, style in STYLES.items() if style.head]
        raise ValueError(f"style must be one of {', '.join(styles)} for a head; got {style!r}")
    if style == "moco" and len(module.dims) == 1:  # a single layer takes the place of the classifier
        return naming._replace(to_file=lambda key: key.removeprefix("0."))
    return naming


def _to_flax_axes(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_torch_axes(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


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


def _describe(module: ResNet | Head) -> str:
    if isinstance(module, Head):
        return f"a head with the widths {'-'.join(map(str, module.dims))}"
    for name, architecture in RESNETS.items():
        if (architecture.block, architecture.stage_sizes) == (module.block, tuple(module.stage_sizes)):
            return _name(name, module.filters / architecture.filters, module.stem)
    return f"a ResNet of {'-'.join(map(str, module.stage_sizes))} {module.block.__name__}s"


def _name(name: str, width: float, stem: str) -> str:
    options = [f"width {width:g}"] * (width != 1) + [f"the {stem!r} stem"] * (stem != "imagenet")
    return name + (f" with {' and '.join(options)}" if options else "")


def _nearest(module: ResNet | Head, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What the file is instead of `module`, as far as its keys and shapes say, in parentheses."""
    if isinstance(module, Head):
        widths = [shape[0] for name, shape in shapes.items() if len(shape) == 2]
        nearest = f"a head with the widths {'-'.join(map(str, widths))}"
    else:
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
        nearest = _name(name, width or 1, "small" if size == 3 else "imagenet")
    return f" (the nearest architecture is {nearest})" if nearest != _describe(module) else ""
