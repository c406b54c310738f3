"""Directories, and `gs://` addresses that behave like them."""

import importlib.util
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
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
        InputError: a path that is not UTF-8, an address of another kind, or gcsfs is not installed.
    """
    text = os.fspath(path)
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # a byte that is not UTF-8, which Orbax cannot write
        raise InputError(f"{name} must be a path in UTF-8; got {text!r}")
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


def cache_directory(name: str) -> Path | None:
    """The directory `name` of this user's cache, which all runs share; None for a user without a home."""
    with suppress(RuntimeError):
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vicreg_jax" / name
    return None


@contextmanager
def replaced_directory(path: Path, files: Collection[str], name: str) -> Iterator[Path]:
    """Yields a new directory beside `path`, which takes its place when the block ends without an error.

    Args:
        path: where the directory will be; parents are created.
        files: what an earlier one may hold, to be replaced.
        name: the argument or flag that an error message names.

    Raises:
        InputError: there is something else, or the directory cannot be written; nothing has changed.
    """
    if not is_on_bucket(path) and path.is_dir():
        path = Path(os.path.realpath(path))  # a link stays, and leads to the new directory
    if is_taken(path):
        kind = "a directory with other files" if path.is_dir() else "a link" if path.is_symlink() else "a file"
        if not path.is_dir() or any(entry.name not in files for entry in path.iterdir()):
            raise InputError(
                f"{name} must be a new or an empty directory, or hold only {' and '.join(files)}; "
                f"got {str(path)!r}, {kind}"
            )
    unfinished, replaced = (path.with_name(f"{path.name}.{suffix}") for suffix in ("partial", "replaced"))
    try:
        _remove(unfinished)
        unfinished.mkdir(parents=True)
        yield unfinished
        _remove(replaced)
        if path.exists():
            path.rename(replaced)
        unfinished.rename(path)
        _remove(replaced)
    except BaseException as error:
        with suppress(OSError):
            _remove(unfinished)
        if isinstance(error, OSError):
            raise InputError(f"{name} must be a writable directory; got {str(path)!r} ({error.strerror})") from error
        raise


@contextmanager
def replaced_files(paths: Sequence[Path], name: str) -> Iterator[list[Path]]:
    """Yields new files beside `paths`, which take their places when the block ends without an error.

    The last one appears when the others are complete, and never stands beside those of another time.

    Args:
        paths: where the files will be.
        name: the argument or flag that an error message names.

    Raises:
        InputError: a file cannot be written; nothing has changed.
    """
    unfinished = [path.with_name(f"{path.name}.partial") for path in paths]
    try:
        yield unfinished
        paths[-1].unlink(missing_ok=True)
        for file, path in zip(unfinished, paths, strict=True):
            file.replace(path)
    except BaseException as error:
        for file in unfinished:
            with suppress(OSError):
                file.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{name} must be a writable file; got {str(paths[-1])!r} ({error.strerror})") from error
        raise


def is_taken(path: Path) -> bool:
    """Whether there is anything by that name, be it a link to nothing."""
    return path.exists() or (not is_on_bucket(path) and path.is_symlink())


def _remove(path: Path) -> None:
    """Removes a file or a directory with its content, if there is one."""
    if is_on_bucket(path):
        if path.exists():
            path.rmtree()  # type: ignore[attr-defined]
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
