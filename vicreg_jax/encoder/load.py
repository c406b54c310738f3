"""An encoder from the workdir of a run, from an export, or from a file of weights."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from vicreg_jax.config import FINETUNE, LINEAR, base_config, from_json, pretrain_table
from vicreg_jax.encoder.build import build_backbone, build_preprocessing
from vicreg_jax.encoder.encoder import Encoder
from vicreg_jax.encoder.export import CONFIG, WEIGHTS, check_types, read_export, types_of, types_of_model
from vicreg_jax.encoder.weights_file import read_card, require_same
from vicreg_jax.interop import load_torch, to_flax
from vicreg_jax.models import ResNet, ViT, input_channels
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.storage import open_directory
from vicreg_jax.runtime.workdir import read_json
from vicreg_jax.training.checkpoint import read_part

_SUPERVISED = {"finetune": FINETUNE, "linear": LINEAR}  # fields of tasks other than pretraining


def load_encoder(path: str | os.PathLike, *, model: str | None = None, config: ConfigDict | None = None) -> Encoder:
    """Loads the encoder of a run, from its newest intact checkpoint, of an export, or of a file of weights.

    Args:
        path: a `--workdir` of `launch.py`; the directory of an export (`Encoder.export`, or `--config.task=export`); or
            a `.pth`, `.pt`, `.safetensors` or detectron2 `.pkl` file. A `gs://` address works too.
        model: of a file of weights without a model card of ours beside it: the backbone that they are of, such as
            "resnet50" or "vit_small_patch16" (with a class token). Images are then resized to 256 pixels, cropped to
            224 and normalized by ImageNet's mean and standard deviation.
        config: of such a file, in place of `model`: the sections `model`, `data` and `augment` of this config say the
            same, and more (width, stem, pooling, image size, normalization).

    Raises:
        ValueError: there is none of these, or the weights are damaged or not of the model.

    Example:
        >>> encoder = load_encoder("runs/digits")                      # doctest: +SKIP
        >>> encoder(images_uint8).shape                                # doctest: +SKIP
        (100, 64)
        >>> encoder = load_encoder("resnet50.pth", model="resnet50")   # doctest: +SKIP
    """
    place = open_directory(path, "path")
    card = read_card(place)
    if card is None and place.is_file():
        return _of_file(place, config or _imagenet_config(model))
    fields = read_json(place / CONFIG) if card is None else card["config"]
    if fields is None:
        what = "without a config.json" if place.exists() else "which does not exist"
        raise InputError(f"path must be a run, an export or a file of weights; got {str(path)!r}, {what}")
    if fields.get("task") == "smt":
        raise InputError(
            f"path must be a run of a network; got {str(path)!r}, a sparse manifold transform "
            "(vicreg_jax.smt.load_smt loads it)"
        )
    version = fields.pop("versions", {}).get("vicreg_jax", "another version")
    try:
        table = _SUPERVISED.get(fields.get("task", ""))
        config = from_json(fields, table or pretrain_table(fields.get("method", {}).get("name", "vicreg")))
    except ValueError as error:
        raise InputError(f"path must be of a compatible version; got {str(path)!r} of {version} ({error})") from error
    backbone = build_backbone(config)
    types = types_of_model(backbone, config.data.image_size)
    if card is not None:
        variables = variables_of_file(place, backbone)
    elif (place / WEIGHTS).exists():
        variables = read_export(place, types)
    else:
        variables = read_part(place / "checkpoints", "backbone")
        check_types(types_of(variables), types, place)
    encoder = _encoder(backbone, variables, config)
    if card is not None:
        require_same(encoder, card, place)
    return encoder


def variables_of_file(place: Path, module: nn.Module, *, resize: bool = True) -> dict[str, Any]:
    """The variables of a module in a file of weights; see `vicreg_jax.interop`.

    Args:
        place: the file.
        module: a backbone or a head.
        resize: interpolate the position embeddings of a ViT to its image size, not leave them as they are.

    Raises:
        InputError: the file is damaged, foreign, or of another module.
    """
    try:
        weights = load_torch(place)
        if isinstance(module, ViT) and not resize:
            module = module.clone(image_size=_image_size(weights, module))
        return to_flax(weights, module)  # type: ignore[arg-type]  # it refuses other modules
    except (TypeError, ValueError) as error:
        raise InputError(re.sub("^(state_dict|model|prefix) must", "path must", str(error))) from error


def _image_size(weights: Mapping[str, Any], vit: ViT) -> int:
    """Side of the images that the position embeddings are for; the ViT's own if there are none."""
    tokens = int(vit.pooling == "token")
    of_patches = [
        array.shape[1] - tokens
        for key, array in weights.items()
        if key.rpartition(".")[2] == "pos_embed" and array.ndim == 3 and array.shape[1] > tokens
    ]
    return vit.patch_size * math.isqrt(of_patches[0]) if of_patches else vit.image_size


def _of_file(place: Path, config: ConfigDict) -> Encoder:
    backbone = build_backbone(config)
    return _encoder(backbone, variables_of_file(place, backbone), config)


def _imagenet_config(model: str | None) -> ConfigDict:
    if model is None:
        raise InputError("model must be the name of a backbone, such as 'resnet50', for a file of weights; got None")
    config = base_config()
    config.model.name = model
    config.data.image_size = 224
    config.augment.central_fraction = 0.875
    return config


def _encoder(backbone: ResNet | ViT, variables: Any, config: ConfigDict) -> Encoder:
    variables = jax.tree.map(jnp.asarray, variables)
    return Encoder(backbone, variables, build_preprocessing(config, input_channels(variables)), config)
