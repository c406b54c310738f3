"""The directory of a run: its files, written whole or not at all, and the check that it belongs to this config."""

import importlib.metadata
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import differences, to_json
from vicreg_jax.errors import InputError

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file so that a reader sees the old one or the new one, never a part."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file, or None where there is none.

    Raises:
      InputError: where it cannot be read or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
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


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Makes the directory, and refuses it where this config's run cannot live in it.

    Raises:
      InputError: it cannot be made or written, or holds a run of another config.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise InputError(
            f"--workdir: got {str(workdir)!r}, takes a directory that can be written ({error.strerror})"
        ) from error
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
