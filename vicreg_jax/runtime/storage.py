"""Directories, and addresses in a bucket that are used like them."""

import importlib.util
import os
from pathlib import Path
from typing import cast

from vicreg_jax.runtime.errors import InputError


def open_directory(path: str | os.PathLike, taker: str = "--workdir") -> Path:
    """The directory of that path or `gs://` address, which need not be there.

    An address becomes an `etils.epath.Path`, which has the methods of a `Path` that are used here.

    Args:
      path: where it is.
      taker: who asks, for the message.

    Raises:
      InputError: an address of another kind, or gcsfs is not installed.
    """
    text = os.fspath(path)
    if "://" not in text:
        return Path(text)
    if not text.startswith("gs://"):
        raise InputError(f"{taker}: got {text!r}, takes a directory or a gs:// address")
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(f"{taker}: got {text!r}, which takes a package more: pip install gcsfs")
    # One client wherever the run is: the other is TensorFlow, as a whole, in the process that trains.
    os.environ.setdefault("EPATH_USE_TF", "false")
    import fsspec
    from etils import epath

    # What another host has written is seen at once.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return cast(Path, epath.Path(text))


def is_on_bucket(path: Path) -> bool:
    """Whether `open_directory` made this path, or one above it, of a `gs://` address."""
    return not isinstance(path, Path)
