"""A fitted transform as a file."""

import dataclasses
import json
import os

import jax.numpy as jnp
import numpy as np

from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.storage import open_directory
from vicreg_jax.smt.options import SMTOptions
from vicreg_jax.smt.transform import SMT

FILE = "smt.npz"
_ARRAYS = ("whitening", "dictionary", "projection", "eigenvalues")


def save_smt(directory: str | os.PathLike, smt: SMT) -> None:
    """Writes the transform to `smt.npz` in that directory, whole or not at all; a `gs://` address as well."""
    folder = open_directory(directory, "save_smt")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / (FILE + ".partial")
    facts = {"options": dataclasses.asdict(smt.options), "image_shape": smt.image_shape}
    arrays = {name: np.asarray(getattr(smt, name)) for name in _ARRAYS}
    with unfinished.open("wb") as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]
    unfinished.replace(folder / FILE)


def load_smt(directory: str | os.PathLike) -> SMT:
    """The transform that a run, or `save_smt`, left in that directory.

    Raises:
      InputError: there is none in it, or it is damaged.

    Example:
      >>> features = transform(load_smt("runs/smt_digits"), images_uint8)  # doctest: +SKIP
    """
    path = open_directory(directory, "load_smt") / FILE
    if not path.exists():
        raise InputError(
            f"load_smt: got {str(directory)!r}, takes a directory with {FILE} in it, of a run that is complete"
        )
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            facts = json.loads(str(arrays["facts"]))
            loaded = {name: jnp.asarray(arrays[name]) for name in _ARRAYS}
    except Exception as error:  # zipfile, NumPy and JSON have errors of all kinds for a damaged file
        raise InputError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    return SMT(**loaded, options=SMTOptions(**facts["options"]), image_shape=tuple(facts["image_shape"]))
