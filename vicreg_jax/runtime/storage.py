"""Directories, and `gs://` addresses that behave like them."""

import importlib.util
import os
from pathlib import Path
from typing import cast

from vicreg_jax.runtime.errors import InputError


def open_directory(path: str | os.PathLike, name: str = "--workdir") -> Path:
    """The directory at a path or a `gs://` address; it need not exist.

    An address becomes an `etils.epath.Path`, which has every method of `Path` that this project calls.

    Args:
        path: a path or an address.
        name: the argument or flag that an error message names.

    Raises:
        InputError: an address of another kind, or gcsfs is not installed.
    """
    text = os.fspath(path)
    if "://" not in text:
        return Path(text)
    if not text.startswith("gs://"):
        raise InputError(f"{name} must be a directory or a gs:// address; got {text!r}")
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(f"{name} requires the package gcsfs (pip install gcsfs); got {text!r}")
    # One client everywhere: the alternative would load all of TensorFlow into the training process.
    os.environ.setdefault("EPATH_USE_TF", "false")
    import fsspec
    from etils import epath

    # Files that another host has just written must be visible.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return cast(Path, epath.Path(text))


def is_on_bucket(path: Path) -> bool:
    """Whether `open_directory` made this path, or a parent of it, from a `gs://` address."""
    return not isinstance(path, Path)
