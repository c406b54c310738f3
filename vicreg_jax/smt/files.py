"""Saves fitted transforms and loads them."""

import dataclasses
import json
import os

import jax.numpy as jnp
import numpy as np

from vicreg_jax.runtime.storage import open_directory
from vicreg_jax.smt.options import SMTOptions
from vicreg_jax.smt.transform import SMT

FILE = "smt.npz"
_ARRAYS = ("whitening", "dictionary", "projection", "eigenvalues")


def save_smt(directory: str | os.PathLike, smt: SMT) -> None:
    """Saves the transform as `smt.npz` in a directory, atomically.

    Args:
        directory: a path or a `gs://` address; it is created if it does not exist.
        smt: the fitted transform.

    Raises:
        ValueError: an address of another kind.
    """
    folder = open_directory(directory, "directory")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / (FILE + ".partial")
    facts = {"options": dataclasses.asdict(smt.options), "image_shape": smt.image_shape}
    arrays = {name: np.asarray(getattr(smt, name)) for name in _ARRAYS}
    with unfinished.open("wb") as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]
    unfinished.replace(folder / FILE)


def load_smt(directory: str | os.PathLike) -> SMT:
    """Loads the transform that a run or `save_smt` wrote.

    Args:
        directory: a path or a `gs://` address.

    Raises:
        ValueError: the directory contains no transform, or a damaged one.

    Example:
        >>> features = transform(load_smt("runs/smt_digits"), images_uint8)  # doctest: +SKIP
    """
    path = open_directory(directory, "directory") / FILE
    if not path.exists():
        raise ValueError(f"directory must contain {FILE}, which a complete run writes; got {str(directory)!r}")
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            facts = json.loads(str(arrays["facts"]))
            loaded = {name: jnp.asarray(arrays[name]) for name in _ARRAYS}
    except Exception as error:  # zipfile, NumPy and JSON raise many types for a damaged file
        raise ValueError(
            f"directory must contain a readable {FILE}; got {str(path)!r} ({type(error).__name__}: {error})"
        ) from error
    return SMT(**loaded, options=SMTOptions(**facts["options"]), image_shape=tuple(facts["image_shape"]))
