"""An export: the encoder's variables in one file beside its config, whole or not there, and checked when it is read."""

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from vicreg_jax.config import to_json
from vicreg_jax.runtime.array_file import ArrayType, read_arrays, read_types, write_arrays
from vicreg_jax.runtime.errors import InputError, first_line
from vicreg_jax.runtime.storage import open_directory, replaced_directory
from vicreg_jax.runtime.workdir import write_json

CONFIG, WEIGHTS = "config.json", "encoder.npz"

Types = Mapping[str, ArrayType]  # of arrays by name, such as `params/conv1/kernel`


def write_export(directory: str | os.PathLike, variables: Mapping[str, Any], config: ConfigDict) -> Path:
    """Writes an export; see `Encoder.export`."""
    path = open_directory(directory, "directory")
    arrays = {name: np.asarray(array) for name, array in flatten_dict(variables, sep="/").items()}
    with replaced_directory(path, (CONFIG, WEIGHTS), "directory") as unfinished:
        write_arrays(unfinished / WEIGHTS, arrays)
        write_json(unfinished / CONFIG, to_json(config))
    return path


def read_export(directory: Path, model: Callable[[int], Types]) -> dict[str, Any]:
    """The variables of an export, whose headers are checked before any array is read.

    Args:
        directory: of the export.
        model: channels of the images -> the types that the model has.

    Raises:
        InputError: the file is damaged, or is not of the model.
    """
    weights = directory / WEIGHTS
    try:
        types = read_types(weights)
    except Exception as error:  # zipfile and NumPy raise errors of all kinds for a damaged file
        raise _damaged(weights, error) from error
    check_types(types, model, weights)
    try:
        return unflatten_dict(read_arrays(weights), sep="/")
    except Exception as error:
        raise _damaged(weights, error) from error


def _damaged(weights: Path, error: Exception) -> InputError:
    return InputError(f"path must hold an intact export; got a damaged {weights} ({first_line(error)})")


def digest_of(variables: Mapping[str, Any], salt: str = "") -> str:
    """The SHA-256 of a text and of arrays with their names and types, in hexadecimal."""
    digest = hashlib.sha256(salt.encode())
    for name, array in sorted(flatten_dict(variables, sep="/").items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def types_of(variables: Mapping[str, Any]) -> Types:
    """Of arrays, or of their shapes."""
    return {name: ArrayType(leaf.shape, leaf.dtype) for name, leaf in flatten_dict(variables, sep="/").items()}


def types_of_model(backbone: nn.Module, image_size: int) -> Callable[[int], Types]:
    """Channels of the images -> the types of the backbone's variables; computes none of them."""

    def types(channels: int) -> Types:
        images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
        return types_of(jax.eval_shape(partial(backbone.init, train=False), jax.random.key(0), images))

    return types


def check_types(found: Types, model: Callable[[int], Types], place: Path) -> None:
    """Compares names, shapes and dtypes with the model's.

    Raises:
        InputError: naming the first array that differs.
    """
    kernel = found.get("params/conv1/kernel", found.get("params/patch_embed/proj/kernel"))
    channels = kernel.shape[2] if kernel is not None and len(kernel.shape) == 4 else 3
    expected = model(channels if channels in (1, 3, 4) else 3)
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise InputError(
                f"path must hold weights of the model in its config.json, with {name}: "
                f"{expected.get(name, 'no array')}; got {found.get(name, 'no array')} in {place}"
            )
