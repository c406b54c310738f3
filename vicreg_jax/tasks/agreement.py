"""The processes of one run have the same config, the same program and the same data, or none of them starts."""

import hashlib
import importlib.metadata
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vicreg_jax import __version__
from vicreg_jax.config import flatten, to_json
from vicreg_jax.data import Dataset, content_of
from vicreg_jax.runtime.agreement import require_same

# Where a host has its files is its own affair.
_PATHS = ("data.data_dir", "data.manual_dir", "data.labels_file", "evaluation.manual_dir", "evaluation.labels_file")
# The packages that decide which program runs.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_PROJECT = Path(__file__).parents[2]


def require_same_run(config: ConfigDict) -> None:
    """Compares config and program with those of the other processes. Call it first.

    Raises:
        InputError: in every process, naming what differs.
    """
    fields = {f"config.{name}": value for name, value in flatten(to_json(config)).items() if name not in _PATHS}
    versions: dict[str, Any] = {"vicreg_jax": __version__} | {
        name: importlib.metadata.version(name) for name in _PACKAGES
    }
    program = {f"version of {name}": version for name, version in versions.items()}
    program |= {"git commit": _git_commit(), "digest of the package's source": _source_digest()}
    require_same(fields | program)


def require_same_data(splits: Mapping[str, Dataset]) -> None:
    """Compares open splits with those of the other processes.

    Args:
        splits: by the config field that names them.

    Raises:
        InputError: in every process, naming what differs.
    """
    require_same(
        {f"{name} of config.{field}": value for field, data in splits.items() for name, value in _facts(data).items()}
    )


def _facts(data: Dataset) -> dict[str, Any]:
    return {
        "number of images": len(data),
        "number of classes": data.num_classes,
        "class names": None if data.class_names is None else list(data.class_names),
        "canvas": [data.canvas, data.canvas, data.channels],
        "value range": None if data.value_range is None else list(data.value_range),
        **{name if name == "edition" else f"digest of the {name}": value for name, value in content_of(data).items()},
    }


def _git_commit() -> str | None:
    """Of the checkout that this package runs from; None where there is none, or no git."""
    if not (_PROJECT / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=_PROJECT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def _source_digest() -> str:
    """Of the package's modules: what was edited on one host only differs too."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
