"""What a checkpoint records about itself, as JSON holds it, and how it is verified."""

import json
import zlib
from typing import Any

import jax

WRONG_FINGERPRINT = "its fingerprint does not match"
# Errors that say nothing about a checkpoint: out of memory, or another process is gone.
NO_DAMAGE = (MemoryError, jax.errors.JaxRuntimeError)


def arrays_of(tree: Any) -> dict[str, list[Any]]:
    """Shape and dtype of every array by name, such as 'params/head/dense_0/kernel', in the order of the leaves."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [list(leaf.shape), str(leaf.dtype)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def numbers_of(array: jax.Array) -> list[int]:
    """A fingerprint as JSON holds it."""
    return jax.device_get(array).tolist()


def checksum(content: Any) -> int:
    """Of what JSON holds."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def verify(content: dict[str, Any]) -> None:
    """Removes the checksum from a record that was read.

    Raises:
        ValueError: it does not match, or the record is of an older version.
    """
    if content.pop("checksum") != checksum(content):
        raise ValueError(WRONG_FINGERPRINT)
    if not {"step", "run"} <= content.keys():
        raise ValueError("an older version of vicreg_jax wrote it")
