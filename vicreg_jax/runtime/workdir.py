"""The workdir of a run: atomic writes, the check that it belongs to this config, and its lock."""

import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vicreg_jax.runtime.entries import check_entries
from vicreg_jax.runtime.errors import InputError, TrainingError, first_line
from vicreg_jax.runtime.processes import all_agree, decide, is_first
from vicreg_jax.runtime.storage import is_on_bucket

Fields = Mapping[str, Any]  # a config as JSON holds it
Differences = Callable[[Fields, Fields], list[str]]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")

_logger = logging.getLogger(__name__)


def write_json(path: Path, content: Fields) -> None:
    """Writes a JSON file atomically: a reader sees the old file or the new one.

    Raises:
        TrainingError: the file cannot be written.
    """
    partial = path.with_suffix(path.suffix + ".partial")
    text = json.dumps(content, indent=2) + "\n"
    try:
        partial.write_text(text)
        partial.replace(path)
    except Exception as error:  # the bucket's client raises errors of all kinds
        raise TrainingError(f"{path} cannot be written: {first_line(error)}; stopped") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None where the file does not exist.

    Raises:
        InputError: the file cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except Exception as error:  # the bucket's client raises errors of all kinds
        raise InputError(f"{path} must be readable JSON; got {first_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must be a JSON object; got {content!r:.40}")
    return content


@contextmanager
def held_workdir(workdir: Path, fields: Fields, differences: Differences) -> Iterator[None]:
    """Creates the workdir and holds it for this run; of several processes the first one holds the lock.

    The operating system's lock on the file `.lock` ends with the process, however that ends. A bucket has no locks:
    nothing keeps a second run out of it.

    Args:
        workdir: the directory.
        fields: the config of this run, as JSON holds it.
        differences: `(fields, fields of the run in the workdir) -> phrases`, one per field that forbids resuming.

    Raises:
        InputError: `check_workdir` refuses it, another run holds it, or the processes see different directories.
    """
    descriptors: list[int] = []
    holder = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"

    def take() -> str:
        check_workdir(workdir, fields, differences)
        if is_on_bucket(workdir):
            (workdir / ".lock").write_text(holder)
        else:
            descriptors.append(_lock(workdir / ".lock", holder))
        return holder

    try:
        first = decide(take)
        # The first process must not read the file: closing any descriptor of it would release the lock.
        if not all_agree(is_first() or _read(workdir / ".lock") == first):
            raise InputError(f"--workdir must be one directory that all hosts share; got {str(workdir)!r}")
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def check_workdir(workdir: Path, fields: Fields, differences: Differences) -> None:
    """Creates the workdir; refuses it where a run of this config cannot live in it. Arguments as for `held_workdir`.

    Raises:
        InputError: the workdir cannot be created or written, or it holds a run of another version or config.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if is_on_bucket(workdir):
            (workdir / ".probe").write_text("")
            (workdir / ".probe").unlink()
        else:
            with tempfile.TemporaryFile(dir=workdir):
                pass
    except Exception as error:  # the bucket's client raises errors of all kinds
        reason = getattr(error, "strerror", None) or first_line(error)
        place = "an existing, writable bucket" if is_on_bucket(workdir) else "a writable directory"
        raise InputError(f"--workdir must be {place}; got {str(workdir)!r} ({reason})") from error
    if not is_on_bucket(workdir):
        check_entries(workdir)
    there = read_json(workdir / "config.json")
    if there is None or not is_bound(workdir):
        return
    ours, theirs = _version(), there.pop("versions", {}).get("vicreg_jax", "an unknown version")
    if ours.split(".")[:2] != theirs.split(".")[:2]:
        raise InputError(
            f"--workdir must be a new directory, or hold a run of vicreg_jax {ours}; got {str(workdir)!r}, which was "
            f"written by an incompatible version of vicreg_jax, {theirs}"
        )
    if changed := differences(fields, there):
        raise InputError(
            f"--workdir must be a new directory, or hold a run of this config; got {str(workdir)!r}, whose run has "
            f"another ({'; '.join(changed)})"
        )


def is_bound(workdir: Path) -> bool:
    """Whether a run has saved something there: a complete checkpoint, or its summary. Any other may be replaced."""
    return bool(saved_steps(workdir / "checkpoints")) or (workdir / "summary.json").exists()


def saved_steps(checkpoints: Path) -> list[int]:
    """The steps of the complete checkpoints in a directory, in rising order.

    Orbax names a checkpoint by its number once it is complete; on a bucket, which cannot rename, it adds a file.
    """
    if not checkpoints.is_dir():
        return []
    steps = [int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal() and path.is_dir()]
    if is_on_bucket(checkpoints):
        steps = [step for step in steps if (checkpoints / str(step) / "commit_success.txt").exists()]
    return sorted(steps)


def write_config(workdir: Path, fields: Fields) -> None:
    """Writes `config.json`: every field, and the versions of the main packages under `versions`."""
    versions = {"vicreg_jax": _version(), "python": platform.python_version()}
    versions |= {package: importlib.metadata.version(package) for package in _PACKAGES}
    write_json(workdir / "config.json", {**fields, "versions": versions})


def written_config(workdir: Path) -> dict[str, Any]:
    """The fields that `write_config` wrote there, without the versions; empty where there are none.

    Raises:
        InputError: the file cannot be read.
    """
    fields = read_json(workdir / "config.json") or {}
    fields.pop("versions", None)
    return fields


def _version() -> str:
    from vicreg_jax import __version__

    return __version__


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except Exception:  # the bucket's client raises errors of all kinds
        return None


def _lock(path: Path, holder: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:  # such as another user's lock
        raise InputError(f"--workdir must be a writable directory; got {path} ({error.strerror})") from error
    try:
        # A record lock: a worker process that outlives its killed parent does not inherit it.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # POSIX allows either
        other = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        raise InputError(
            f"--workdir must not be in use by another run; got {str(path.parent)!r}, held by {other}"
        ) from error
    except OSError as error:
        _logger.warning("%s cannot be locked (%s): nothing keeps a second run out", path, error)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, holder.encode())
        os.fsync(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise InputError(f"--workdir must be a writable directory; got {path} ({error.strerror})") from error
    return descriptor
