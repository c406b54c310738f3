"""An encoder as a file of weights that other libraries load, beside a model card and images to check it with."""

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vicreg_jax import __version__
from vicreg_jax.config import to_json
from vicreg_jax.encoder.encoder import Encoder
from vicreg_jax.interop import STYLES, to_torch, write_detectron2, write_safetensors, write_torch
from vicreg_jax.models import ResNet
from vicreg_jax.runtime.array_file import write_arrays
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.storage import is_on_bucket, is_taken, open_directory, replaced_files
from vicreg_jax.runtime.workdir import read_json


class Format(NamedTuple):
    """A kind of file: whose names the tensors have, the ending of the file, and its writer."""

    style: str
    suffix: str
    write: Callable[[Path, Mapping[str, Any]], None]


FORMATS = {
    # The metadata that PyTorch's own writers give such a file.
    "safetensors": Format("torchvision", ".safetensors", partial(write_safetensors, metadata={"format": "pt"})),
    "torchvision": Format("torchvision", ".pth", write_torch),
    "timm": Format("timm", ".safetensors", partial(write_safetensors, metadata={"format": "pt"})),
    "detectron2": Format("detectron2", ".pkl", write_detectron2),
}
TOLERANCE = 1e-4  # of the features of the check, relative to their norm
_SUFFIXES = {format.suffix for format in FORMATS.values()}
_CHECK_IMAGES = 8
_BLOCK = 4  # side of their squares, in pixels


def write_weights(
    path: str | os.PathLike, encoder: Encoder, format: str, *, results: Mapping[str, Any] | None = None
) -> Path:
    """Writes the weights of an encoder for another library.

    Beside `resnet50.pth`, for example, it writes

    * `resnet50.pth.json`, the model card: architecture, preprocessing, results, `Encoder.digest` and the config;
    * `resnet50.pth.npz`, the check: 8 synthetic `images` (uint8 `[8, size, size, channels]`), and their `features`
      (float32 `[8, feature_dim]`) from `(images / 255 - mean) / std`, computed in float32.

    All three are written, or none.

    Args:
        path: a new file with the ending of the format, or an earlier one of this function; a `gs://` address works too.
        encoder: any one.
        format: one of `FORMATS`; of a ViT "timm".
        results: what the model card says of the run, such as its accuracies.

    Returns:
        The file.

    Raises:
        ValueError: an unknown format or one that has no names for a ViT, something else by one of these names, or a
            file that cannot be written.
    """
    if format not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}; got {format!r}")
    backbone: Any = encoder.backbone  # a ResNet or a ViT
    taken = [name for name, other in FORMATS.items() if STYLES[other.style].naming(backbone)]
    if format not in taken:
        raise InputError(
            f"format must be one of vicreg_jax, {', '.join(taken)} for {encoder.config.model.name}; got {format!r}"
        )
    path = open_directory(path, "path")
    _require_free(path, format)
    style, _, write = FORMATS[format]
    weights, check = to_torch(encoder.variables, backbone, style=style), _check(encoder)
    with replaced_files((_card_of(path), _check_of(path), path), "path") as (card_file, check_file, weights_file):
        card_file.write_text(json.dumps(_card(path, encoder, format, results), indent=2) + "\n")
        write_arrays(check_file, check)
        write(weights_file, weights)
    return path


def read_card(path: Path) -> dict[str, Any] | None:
    """The model card of a file that `write_weights` wrote; None for any other path.

    Raises:
        InputError: the card cannot be read.
    """
    if path.suffix not in _SUFFIXES or path.is_dir():
        return None
    card = read_json(_card_of(path)) or {}
    return card if isinstance(card.get("config"), dict) and {"format", "encoder"} <= card.keys() else None


def require_same(encoder: Encoder, card: Mapping[str, Any], path: Path) -> None:
    """Refuses weights that are not those of the model card.

    Raises:
        InputError: naming both.
    """
    if encoder.digest != card["encoder"]:
        raise InputError(f"path must hold the weights that {_card_of(path)} describes; got others in {str(path)!r}")


def _require_free(path: Path, format: str) -> None:
    suffix = FORMATS[format].suffix
    if path.suffix != suffix:
        raise InputError(f"path must be a path that ends in {suffix} for the format {format}; got {str(path)!r}")
    if path.is_dir() or not (is_on_bucket(path) or path.parent.is_dir()):
        raise InputError(f"path must be a file in a directory that exists; got {str(path)!r}")
    taken = [str(file) for file in (path, _card_of(path), _check_of(path)) if is_taken(file)]
    if taken and read_card(path) is None:
        raise InputError(f"path must be a new file, or an earlier export; got {str(path)!r}, where there is {taken[0]}")


def _card_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _check_of(path: Path) -> Path:
    return path.with_name(path.name + ".npz")


def _card(path: Path, encoder: Encoder, format: str, results: Mapping[str, Any] | None) -> dict[str, Any]:
    model, preprocessing = encoder.config.model, encoder.preprocessing

    def per_channel(values: tuple[float, ...]) -> list[float]:
        return list(values) * (encoder.channels // len(values))

    return {
        "format": format,
        "written_by": f"vicreg_jax {__version__}",
        "architecture": {
            "name": model.name,
            "width": model.width,
            **({"stem": model.stem} if isinstance(encoder.backbone, ResNet) else {"pooling": model.pooling}),
            "channels": encoder.channels,
            "feature_dim": encoder.feature_dim,
        },
        "preprocessing": {
            "image_size": preprocessing.image_size,
            "central_fraction": preprocessing.central_fraction,
            "mean": per_channel(preprocessing.mean),
            "std": per_channel(preprocessing.std),
        },
        "results": None if results is None else dict(results),
        "check": {"file": _check_of(path).name, "images": "synthetic", "tolerance": TOLERANCE},
        "encoder": encoder.digest,
        "config": to_json(encoder.config),
    }


def _check(encoder: Encoder) -> dict[str, np.ndarray]:
    """Images and their features; see `write_weights`. Synthetic images may be published with any weights."""
    preprocessing = encoder.preprocessing
    size, squares = preprocessing.image_size, -(-preprocessing.image_size // _BLOCK)
    colors = np.random.default_rng(0).integers(0, 256, (_CHECK_IMAGES, squares, squares, encoder.channels), np.uint8)
    images = colors.repeat(_BLOCK, axis=1).repeat(_BLOCK, axis=2)[:, :size, :size]
    inputs = ((images / 255 - preprocessing.mean) / preprocessing.std).astype(np.float32)
    backbone = encoder.backbone.clone(dtype=jnp.float32)
    with jax.default_matmul_precision("float32"):  # also on GPUs and TPUs
        features = _features(backbone, encoder.variables, inputs)
    return {"images": images, "features": np.asarray(features)}


@partial(jax.jit, static_argnums=0)
def _features(backbone: nn.Module, variables: Any, inputs: jax.Array) -> jax.Array:
    features: Any = backbone.apply(variables, inputs, train=False)
    return features
