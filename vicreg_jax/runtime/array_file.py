"""Arrays by name in one `.npz` file, whose names, shapes and sizes are known and checked before any array is read."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class ArrayType(NamedTuple):
    """What an array is, without its entries."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays uncompressed, as `numpy.savez` does."""
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_types(path: Path) -> dict[str, ArrayType]:
    """The type of every array, from the headers alone; the file is as large as they say.

    Raises:
        ValueError: naming what is wrong with the file.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        types = {_name(member): _read_type(archive, member) for member in members}
        size = file.seek(0, 2)
        if len(types) != len(members) or sum(member.compress_size for member in members) > size:
            raise ValueError(f"its arrays do not fit into its {size} bytes")
        return types


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file that `read_types` accepts; each has a checksum.

    Raises:
        Exception: of many kinds, where the file is damaged.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        arrays = {}
        for member in archive.infolist():
            with archive.open(member) as content:
                arrays[_name(member)] = np.lib.format.read_array(content, allow_pickle=False)
        return arrays


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _read_type(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> ArrayType:
    with archive.open(member) as content:
        version: Any = np.lib.format.read_magic(content)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError(f"{member.filename} has the unknown format {version}")
        shape, _, dtype = read_header(content)
        header = content.tell()
    stated = header + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if member.compress_type != zipfile.ZIP_STORED or not member.file_size == member.compress_size == stated:
        raise ValueError(f"{member.filename} has {member.compress_size} bytes, and states {stated}")
    return ArrayType(shape, dtype)
