"""Prepared tfds datasets on disk: which are there, and whether their files are intact."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

_METADATA = ("dataset_info.json", "features.json")


def read_records(path: str) -> list[bytes]:
    """All records of an ArrayRecord file.

    Raises:
        ValueError: the file is damaged or not there.
    """
    reader = _open_records(path)
    try:
        return reader.read_all()
    except Exception as error:  # whatever its C++ code raises
        raise damaged(path, error) from error


def check_records(path: str, length: int) -> None:
    """Checks, without reading them, that an ArrayRecord file holds `length` records.

    Raises:
        ValueError: it does not, is damaged, or is not there.
    """
    if not tfds.core.Path(path).exists():
        raise damaged(path, "no such file")
    found = _open_records(path).num_records()
    if found != length:
        raise damaged(path, f"{found} of {length} records")


def damaged(path: str | Path, reason: object) -> ValueError:
    """The error for a file of a prepared dataset."""
    line = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    return ValueError(
        f"data_dir must hold intact datasets; got {str(path)!r} ({line:.200}); "
        f"remove {os.path.dirname(path)} and prepare the dataset again"
    )


def check_place(name: str, data_dir: str | None) -> None:
    """Refuses a `data_dir` that is the directory of the dataset or below it, instead of the one above.

    Raises:
        ValueError: naming the directory that was tried, and what is there.
    """
    root, base = _root(data_dir), _base(name)
    if _prepared(root / base):
        return
    for folder in (root, *root.parents[:2]):
        if folder.name == base and (found := _prepared(folder)):
            raise ValueError(
                f"data_dir must be the directory that holds {base!r}, {str(folder.parent)!r}; got {data_dir!r}: "
                f"{str(root / base)!r} is not there (prepared: {', '.join(found)})"
            )


def check_metadata(name: str, data_dir: str | None) -> None:
    """Refuses a dataset with damaged descriptions; to be called where tfds cannot open it.

    Raises:
        ValueError: naming the file.
    """
    root = _root(data_dir)
    for version in _prepared(root / _base(name)):
        for file in (root / version / name for name in _METADATA):
            try:
                json.loads(file.read_text())
            except FileNotFoundError:
                raise damaged(file, "no such file") from None
            except (OSError, ValueError) as error:
                raise damaged(file, error) from error


def versions_there(name: str, data_dir: str | None) -> str:
    """The prepared versions of a dataset, in parentheses after a space; empty if there are none."""
    root = _root(data_dir)
    found: Sequence[str] = _prepared(root / _base(name))
    return f" (prepared in {str(root)!r}: {', '.join(found)})" if found else ""


def _open_records(path: str) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        return ArrayRecordReader(path)
    except Exception as error:  # whatever its C++ code raises
        raise damaged(path, error) from error


def _root(data_dir: str | None) -> Path:
    return Path(tfds.core.constants.DATA_DIR if data_dir is None else data_dir).expanduser().absolute()


def _base(name: str) -> str:
    return re.split("[/:]", name)[0]


def _prepared(folder: Path) -> list[str]:
    """The versions in the directory of a dataset, with or without a config, relative to the one above."""
    patterns = [f"{depth}/{file}" for depth in ("*", "*/*") for file in (*_METADATA, "*array_record*")]
    files = (file for pattern in patterns for file in folder.glob(pattern))
    return sorted({file.parent.relative_to(folder.parent).as_posix() for file in files})
