"""Reads the weights in a file of PyTorch, detectron2 or safetensors."""

import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vicreg_jax.interop.dtypes import DTYPES, SAFETENSORS, from_bytes
from vicreg_jax.interop.unpickle import NumpyArray, Storage, Tensor, Unreadable, unpickle
from vicreg_jax.runtime.storage import open_directory

# Where a training checkpoint keeps the weights beside the optimizer's state, the epoch and so on; the first counts.
ENTRIES = ("state_dict", "model_state_dict", "model_state", "model")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LARGEST_HEADER = 100 * 2**20  # of safetensors, by its specification
_PICKLE = b"\x80"

ReadTensor = Callable[[Any], np.ndarray]


def load_torch(path: str | os.PathLike, *, entry: str | None = None) -> dict[str, np.ndarray]:
    """Read the weights in a `.pth`, `.pt`, `.safetensors` or detectron2 `.pkl` file, without torch.

    The content tells the format: PyTorch's zip archive, its older stream of pickles, safetensors, or a pickle of NumPy
    arrays (detectron2's model zoo). Nothing that a pickle names is imported or called. A file with anything but
    tensors, dicts, lists, numbers and text is refused.

    Args:
        path: A file, or its `gs://` address.
        entry: The entry of the checkpoint that holds the weights, such as "state_dict_ema". `None`: the entry
            "state_dict", "model_state_dict", "model_state" or "model", the first that is a dict, and of that one
            again; if there is none, the tensors of the checkpoint itself.

    Returns:
        The tensors by key, as arrays of their own, contiguous; 16-bit and 8-bit floats in the dtypes of `ml_dtypes`.
        What else the dict holds is left out.

    Raises:
        ValueError: If the file does not exist, is truncated, of another kind, or holds anything else; or there is no
            dict of tensors in it, or under `entry`.

    Example:
        >>> weights = load_torch("resnet50.pth")  # doctest: +SKIP
        >>> weights["conv1.weight"].shape  # doctest: +SKIP
        (64, 3, 7, 7)
    """
    file_path = open_directory(path, "path")
    if not file_path.is_file():
        raise ValueError(f"path must be an existing file; got {str(path)!r}")
    with file_path.open("rb") as file:
        with _errors_name(path):
            checkpoint, read = _open(file)
        tensors = _find_tensors(checkpoint, path, entry)
        with _errors_name(path):
            return {key: read(tensor) for key, tensor in tensors.items()}


@contextmanager
def _errors_name(path: str | os.PathLike) -> Iterator[None]:
    """One line for all that goes wrong in a damaged or foreign file: pickle, zipfile and NumPy raise many types."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, Unreadable)
        reason = str(error) if known else f"is truncated, damaged or foreign ({type(error).__name__}: {error})"
        reason = " ".join(reason.split())
        raise ValueError(
            f"path must be a complete PyTorch or safetensors file; got {str(path)!r}, which {reason:.300}"
        ) from error


def _find_tensors(checkpoint: Any, path: str | os.PathLike, entry: str | None) -> dict[str, Any]:
    if entry is not None:
        if not isinstance(checkpoint, dict) or entry not in checkpoint:
            names = _names(checkpoint)
            raise ValueError(f"entry must be one of {names}, the entries of {str(path)!r}; got {entry!r}")
        checkpoint = checkpoint[entry]
    else:
        for _ in range(2):
            inner = [checkpoint[name] for name in ENTRIES if isinstance(checkpoint, dict) and name in checkpoint]
            checkpoint = next((value for value in inner if isinstance(value, dict)), checkpoint)
    items = checkpoint.items() if isinstance(checkpoint, dict) else ()
    tensors = {
        key: value
        for key, value in items
        if isinstance(key, str) and isinstance(value, Tensor | NumpyArray | _SafetensorsEntry)
    }
    if not tensors:
        rule = "a dict of tensors" if entry is None else f"a dict of tensors as its entry {entry!r}"
        raise ValueError(
            f"path must be a file with {rule}; got {str(path)!r} with {_names(checkpoint)} (`entry` chooses one)"
        )
    return tensors


def _names(checkpoint: Any) -> str:
    if not isinstance(checkpoint, dict):
        return f"an object of type {type(checkpoint).__name__}"
    names = [str(key) for key in checkpoint]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "no entries"


def _open(file: BinaryIO) -> tuple[Any, ReadTensor]:
    """What the file holds, with places in place of arrays, and the function that reads the array at a place."""
    start = file.read(512)
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return _open_zip(file)
    if start[8:9] == b"{":
        return _open_safetensors(file)
    if start.startswith(_PICKLE):
        return _open_pickles(file)
    if start[257:262] == b"ustar":
        raise Unreadable("is of PyTorch 0.1")
    raise Unreadable("is empty" if not start else "has none of these formats")


def _reader(read_storage: Callable[[str], bytes], *, big_endian: bool = False) -> ReadTensor:
    """Tensors that share a storage usually follow one another: the last storage is kept."""
    read_storage = lru_cache(maxsize=1)(read_storage)

    def read(place: Any) -> np.ndarray:
        if isinstance(place, NumpyArray):
            return place.array()
        return place.array(read_storage(place.storage.key), big_endian=big_endian)

    return read


def _open_zip(file: BinaryIO) -> tuple[Any, ReadTensor]:
    archive = zipfile.ZipFile(file)
    folders = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise Unreadable("is a zip archive, but not one of PyTorch")
    (folder,) = folders
    if f"{folder}constants.pkl" in archive.namelist():
        raise Unreadable("is a program of TorchScript, not weights (torch.save(model.state_dict(), ...) writes those)")
    checkpoint, storages = unpickle(io.BytesIO(archive.read(f"{folder}data.pkl")))
    order = f"{folder}byteorder"
    big_endian = order in archive.namelist() and archive.read(order) == b"big"

    def read_storage(key: str) -> bytes:
        info = archive.getinfo(f"{folder}data/{key}")
        _check_size(storages[key], info.file_size)
        return archive.read(info)

    return checkpoint, _reader(read_storage, big_endian=big_endian)


def _check_size(storage: Storage, size: int) -> None:
    needed = storage.size * DTYPES[storage.dtype].itemsize
    if size < needed:
        raise Unreadable(f"is truncated: storage {storage.key} has {max(size, 0)} of {needed} bytes")


def _open_pickles(file: BinaryIO) -> tuple[Any, ReadTensor]:
    """PyTorch's older format, or detectron2's.

    PyTorch's: magic number, version, facts of the machine, checkpoint and keys of the storages, each a pickle; then for
    each key the number of elements and their bytes, both little-endian on any machine.
    """
    checkpoint, storages = unpickle(file)
    positions: dict[str, int] = {}
    if checkpoint == _LEGACY_MAGIC:
        _version, _machine = unpickle(file)[0], unpickle(file)[0]
        checkpoint, storages = unpickle(file)
        keys, _ = unpickle(file)
        position = file.tell()
        end = file.seek(0, os.SEEK_END)
        for key in keys:
            storage = storages[key]
            positions[key] = position + 8
            _check_size(storage, end - positions[key])
            file.seek(position)
            if int.from_bytes(file.read(8), "little", signed=True) != storage.size:
                raise Unreadable(f"has a storage {key} of another size than its tensors need")
            position += 8 + storage.size * DTYPES[storage.dtype].itemsize

    def read_storage(key: str) -> bytes:
        file.seek(positions[key])
        return file.read(storages[key].size * DTYPES[storages[key].dtype].itemsize)

    return checkpoint, _reader(read_storage)


class _SafetensorsEntry(NamedTuple):
    """The header's entry of one tensor; `data_offsets` count bytes after the header."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def _open_safetensors(file: BinaryIO) -> tuple[Any, ReadTensor]:
    """A length of 8 bytes, a JSON header of that length, and the bytes of the tensors."""
    length = int.from_bytes(file.read(8), "little")
    if length > _LARGEST_HEADER:
        raise Unreadable("has none of these formats")
    text = file.read(length)
    if len(text) < length:
        raise Unreadable(f"is truncated: its header has {len(text)} of {length} bytes")
    header = json.loads(text)
    header.pop("__metadata__", None)
    entries = {key: _SafetensorsEntry(**entry) for key, entry in header.items()}
    data = 8 + length
    size = file.seek(0, os.SEEK_END) - data
    needed = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if size < needed:
        raise Unreadable(f"is truncated: it has {size} of {needed} bytes of tensors")
    names = {code: name for name, code in SAFETENSORS.items()}

    def read(entry: _SafetensorsEntry) -> np.ndarray:
        if entry.dtype not in names:
            raise Unreadable(f"has a tensor of dtype {entry.dtype!r}")
        dtype = DTYPES[names[entry.dtype]]
        begin, end = entry.data_offsets
        if not 0 <= begin <= end or end - begin != math.prod(entry.shape) * dtype.itemsize:
            raise Unreadable(f"has a tensor of shape {entry.shape} in {end - begin} bytes")
        file.seek(data + begin)
        return np.array(from_bytes(file.read(end - begin), dtype).reshape(entry.shape))

    return entries, read
