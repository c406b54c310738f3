"""Weights to start from: those of a file, a run or an export, made to fit a network."""

import hashlib
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from vicreg_jax.encoder.export import Types, digest_of, types_of, types_of_model
from vicreg_jax.encoder.load import load_encoder, variables_of_file
from vicreg_jax.models import STEMS, ResNet, resize_positions
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.storage import open_directory
from vicreg_jax.training.checkpoint import read_part

Arrays = dict[str, np.ndarray]  # by name, such as `params/conv1/kernel`

_KERNELS = ("params/conv1/kernel", "params/patch_embed/proj/kernel")  # of the first layer
_STEM = ("params/conv1/", "params/bn1/", "batch_stats/bn1/")
_POSITIONS, _CLASS_TOKEN = "params/pos_embed", "params/cls_token"


class Weights(NamedTuple):
    """Weights for one module.

    Attributes:
        variables: `{'params': ..., 'batch_stats': ...}`, NumPy arrays. An array that the place of the weights does not
            have is missing.
        digest: SHA-256 of the file, or of the arrays of a run or an export, in hexadecimal.
        notes: a phrase on everything that is missing or was adapted.
    """

    variables: dict[str, Any]
    digest: str
    notes: tuple[str, ...] = ()


def read_backbone(path: str | os.PathLike, backbone: nn.Module, *, image_size: int, channels: int) -> Weights:
    """Reads the weights of a backbone.

    Three things may differ:

    * the channels of the images. The first kernels are summed over color for gray images; those for gray images are
      divided evenly among the channels (timm's rule). With one mean and one standard deviation for all channels, a gray
      image then has the features of its copy in color.
    * the stem of a ResNet. Its first convolution and BatchNorm are left out.
    * the image size of a ViT. The position embeddings are interpolated, as `ViT` does.

    Args:
        path: a `.pth`, `.pt`, `.safetensors` or detectron2 `.pkl` file; a `--workdir` of `launch.py`; or an export.
        backbone: the module that gets them.
        image_size: side of its images in pixels.
        channels: of its images.

    Raises:
        ValueError: there are no such weights, they are damaged, or they are those of another architecture.
    """
    place = open_directory(path, "path")
    if place.is_file():
        variables, digest, source = _from_file(place, backbone), _digest_of_file(place), "those"
    else:
        encoder = load_encoder(place)
        variables = jax.device_get(encoder.variables)
        digest, source = digest_of(variables), f"those of {encoder.config.model.name}"
    types = types_of_model(backbone, image_size)(channels)
    arrays, missing, notes = adapt(flatten_dict(variables, sep="/"), types)
    _check(arrays, {name: kind for name, kind in types.items() if not name.startswith(missing)}, f"{source} in {path}")
    return Weights(_both(unflatten_dict(arrays, sep="/")), digest, notes)


def read_head(path: str | os.PathLike, head: nn.Module, *, features: int) -> Weights:
    """Reads the weights of a head (expander or projector).

    Args:
        path: a file as for `read_backbone`, or a `--workdir` of `launch.py`.
        head: the module that gets them.
        features: dimension of its inputs.

    Raises:
        ValueError: there are no such weights, they are damaged, or they are those of another head.
    """
    place = open_directory(path, "path")
    if place.is_file():
        variables, digest = variables_of_file(place, head), _digest_of_file(place)
    else:
        variables = jax.device_get(read_part(place / "checkpoints", "head"))
        digest = digest_of(variables)
    shapes = jax.eval_shape(head.init, jax.random.key(0), jax.ShapeDtypeStruct((2, features), np.float32))
    _check(flatten_dict(variables, sep="/"), types_of(shapes), f"those in {path}")
    return Weights(_both(variables), digest)


def _from_file(place: Path, backbone: nn.Module) -> dict[str, Any]:
    """The variables in a file; of a ResNet they may be with the other stem, of a ViT for another image size."""
    try:
        return variables_of_file(place, backbone, resize=False)
    except InputError:
        if isinstance(backbone, ResNet):
            (other,) = set(STEMS) - {backbone.stem}
            with suppress(InputError):
                return variables_of_file(place, backbone.clone(stem=other))
        raise


def adapt(arrays: Arrays, types: Types) -> tuple[Arrays, tuple[str, ...], tuple[str, ...]]:
    """The arrays for other channels, another stem and another image size; what names of missing ones begin with; notes.

    What cannot be adapted stays as it is.
    """
    arrays, notes = dict(arrays), []
    missing: tuple[str, ...] = ()
    for name in arrays.keys() & types.keys() & set(_KERNELS):
        (height, width, found, _), wanted = arrays[name].shape, types[name].shape
        if name.startswith(_STEM) and (height, width) != wanted[:2]:
            missing = _STEM
            notes.append(
                f"conv1 and bn1 stay random: the kernel of the stem is {height}x{width}, not {wanted[0]}x{wanted[1]}"
            )
        elif wanted[2] == 1 < found:
            arrays[name] = arrays[name].sum(axis=2, keepdims=True)
            notes.append(f"the first kernels are summed over {found} channels")
        elif found == 1 < wanted[2]:
            arrays[name] = np.repeat(arrays[name] / wanted[2], wanted[2], axis=2)
            notes.append(f"the first kernels are divided among {wanted[2]} channels")
    if _POSITIONS in arrays.keys() & types.keys() and arrays[_POSITIONS].shape != types[_POSITIONS].shape:
        tokens = int(_CLASS_TOKEN in types)
        before, after = (
            math.isqrt(count - tokens) for count in (arrays[_POSITIONS].shape[1], types[_POSITIONS].shape[1])
        )
        arrays[_POSITIONS] = np.asarray(resize_positions(jnp.asarray(arrays[_POSITIONS]), tokens, (after, after)))
        notes.append(f"the position embeddings are interpolated from {before}x{before} to {after}x{after} patches")
    arrays = {name: array for name, array in arrays.items() if not name.startswith(missing)}
    return arrays, missing, tuple(notes)


def _check(arrays: Arrays, types: Types, source: str) -> None:
    """Compares names, shapes and dtypes.

    Raises:
        InputError: with the first array that differs.
    """
    found = types_of(arrays)
    different = [name for name in sorted(types.keys() | found.keys()) if found.get(name) != types.get(name)]
    if different:
        name = different[0]
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise InputError(
            f"path must hold weights of this architecture, with {name}: {types.get(name, 'no array')}; "
            f"got {found.get(name, 'no array')}{more} among {source}"
        )


def _both(variables: dict[str, Any]) -> dict[str, Any]:
    """With both collections: a module without BatchNorm has no `batch_stats`."""
    return {"params": {}, "batch_stats": {}} | variables


def _digest_of_file(place: Path) -> str:
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
