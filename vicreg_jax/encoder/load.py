"""An encoder from the workdir of a run, or from an export."""

import os

import jax
import jax.numpy as jnp

from vicreg_jax.config import from_json, pretrain_table
from vicreg_jax.encoder.encoder import Encoder
from vicreg_jax.encoder.export import CONFIG, WEIGHTS, check_types, read_export, types_of, types_of_model
from vicreg_jax.models import input_channels
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.storage import open_directory
from vicreg_jax.runtime.workdir import read_json
from vicreg_jax.tasks.pretrain.build import build_backbone, build_preprocessing
from vicreg_jax.training.checkpoint import read_backbone


def load_encoder(path: str | os.PathLike) -> Encoder:
    """Loads the encoder of a run, from its newest intact checkpoint, or of an export.

    Args:
        path: a `--workdir` of `launch.py`, or the directory of an export (`Encoder.export`, or `--config.task=export`);
            a `gs://` address works too.

    Raises:
        ValueError: the directory holds neither, or weights that are damaged or not of the model in its `config.json`.

    Example:
        >>> encoder = load_encoder("runs/digits")                      # doctest: +SKIP
        >>> encoder(images_uint8).shape                                # doctest: +SKIP
        (100, 64)
    """
    directory = open_directory(path, "path")
    fields = read_json(directory / CONFIG)
    if fields is None:
        raise InputError(f"path must be the directory of a run or an export; got {str(path)!r} without a config.json")
    if fields.get("task") == "smt":
        raise InputError(
            f"path must be a run of a network; got {str(path)!r}, a sparse manifold transform "
            "(vicreg_jax.smt.load_smt loads it)"
        )
    version = fields.pop("versions", {}).get("vicreg_jax", "another version")
    try:
        config = from_json(fields, pretrain_table(fields.get("method", {}).get("name", "vicreg")))
    except ValueError as error:
        raise InputError(f"path must be of a compatible version; got {str(path)!r} of {version} ({error})") from error
    backbone = build_backbone(config)
    model = types_of_model(backbone, config.data.image_size)
    if (directory / WEIGHTS).exists():
        variables = read_export(directory, model)
    else:
        variables = read_backbone(directory / "checkpoints")
        check_types(types_of(variables), model, directory)
    variables = jax.tree.map(jnp.asarray, variables)
    return Encoder(backbone, variables, build_preprocessing(config, input_channels(variables)), config)
