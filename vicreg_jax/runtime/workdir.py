"""The directory of a run: its files, whole or not there, the check that it belongs to this config, and its lock."""

import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config.fields import differences, to_json
from vicreg_jax.runtime.errors import InputError, TrainingError, first_line
from vicreg_jax.runtime.processes import all_agree, decide, is_first
from vicreg_jax.runtime.storage import is_on_bucket

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")

_logger = logging.getLogger(__name__)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file so that a reader sees the old one or the new one, never a part.

    Raises:
      TrainingError: it cannot be written.
    """
    partial = path.with_suffix(path.suffix + ".partial")
    text = json.dumps(content, indent=2) + "\n"
    try:
        partial.write_text(text)
        partial.replace(path)
    except Exception as error:  # the bucket's client has errors of all kinds
        raise TrainingError(f"{path} cannot be written: {first_line(error)}; stopped") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file, or None where there is none.

    Raises:
      InputError: where it cannot be read or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except Exception as error:  # the bucket's client has errors of all kinds
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: got {content!r:.40}, takes a JSON object")
    return content


def _versions() -> dict[str, str]:
    from vicreg_jax import __version__

    versions = {"vicreg_jax": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        versions[package] = importlib.metadata.version(package)
    return versions


@contextmanager
def held_workdir(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Makes the directory and keeps it for this run, of whose processes the first holds the lock.

    The lock is the operating system's, on the file `.lock`: it goes with the process, however that ends. A bucket has
    no locks: there nothing keeps a second run out.

    Raises:
      InputError: `check_workdir` refuses it, another run holds it, or not all processes see the same directory.
    """
    descriptors: list[int] = []
    holder = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"

    def take() -> str:
        check_workdir(workdir, config)
        if is_on_bucket(workdir):
            (workdir / ".lock").write_text(holder)
        else:
            descriptors.append(_lock(workdir / ".lock", holder))
        return holder

    try:
        first = decide(take)
        # The first process must not read it: closing any descriptor of the file would end the lock.
        if not all_agree(is_first() or _read(workdir / ".lock") == first):
            raise InputError(f"--workdir: got {str(workdir)!r}, takes one directory that all hosts share")
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except Exception:  # the bucket's client has errors of all kinds
        return None


def _lock(path: Path, holder: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # A record lock, for a worker process that outlives its killed parent does not inherit it.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # POSIX leaves open which
        other = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        raise InputError(f"--workdir: {str(path.parent)!r} is in use by another run ({other})") from error
    except OSError as error:
        _logger.warning("%s cannot be locked (%s): nothing keeps a second run out", path, error)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, holder.encode())
        os.fsync(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise InputError(f"--workdir: {path} cannot be written ({error.strerror})") from error
    return descriptor


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Makes the directory, and refuses it where this config's run cannot live in it.

    Raises:
      InputError: it cannot be made or written, or holds a run of another config.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if is_on_bucket(workdir):
            (workdir / ".probe").write_text("")
            (workdir / ".probe").unlink()
        else:
            with tempfile.TemporaryFile(dir=workdir):
                pass
    except Exception as error:  # the bucket's client has errors of all kinds
        reason = getattr(error, "strerror", None) or first_line(error)
        place = "bucket that is there and" if is_on_bucket(workdir) else "directory that"
        raise InputError(f"--workdir: got {str(workdir)!r}, takes a {place} can be written ({reason})") from error
    there = read_json(workdir / "config.json")
    # A run that left nothing but its config binds nobody.
    if there is not None and any((workdir / name).exists() for name in ("checkpoints", "metrics.jsonl")):
        there.pop("versions", None)
        changed = differences(to_json(config), there)
        if changed:
            raise InputError(
                f"--workdir: {str(workdir)!r} holds a run of another config ({'; '.join(changed)}); "
                "take another directory, or the config of that run"
            )


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Writes `config.json`: every field, and the versions of the main packages under `versions`."""
    write_json(workdir / "config.json", to_json(config) | {"versions": _versions()})
