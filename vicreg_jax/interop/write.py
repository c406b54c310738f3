"""Writes weights for PyTorch, safetensors and detectron2, without torch. Equal weights give equal files."""

import json
import math
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from vicreg_jax.interop.dtypes import DTYPES, SAFETENSORS, STORAGES
from vicreg_jax.runtime.storage import open_directory

_NUMPY_DTYPES = {name: storage for name, storage in STORAGES.items() if name != "bfloat16"}
_ALIGNMENT = 64  # of each tensor in the file, as torch.save aligns it


def write_torch(path: str | os.PathLike, state_dict: Mapping[str, Any]) -> None:
    """Write a `.pth` file that `torch.load(path, weights_only=True)` reads as an `OrderedDict` of tensors.

    Args:
        path: The file, or its `gs://` address. It is replaced as a whole.
        state_dict: Arrays by key, such as `to_torch` returns.

    Raises:
        TypeError: If the dtype of an array has no storage class in PyTorch.
    """
    arrays = _arrays(state_dict, STORAGES)
    with _replacing(path) as file, zipfile.ZipFile(file, "w") as archive:

        def add(name: str, data: bytes) -> None:
            info = zipfile.ZipInfo(f"archive/{name}")  # with the date 1980-01-01
            # The 30 bytes of a header, its name, and four bytes before the padding.
            before = file.tell() + 30 + len(info.filename) + 4
            padding = -before % _ALIGNMENT
            info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
            archive.writestr(info, data)

        add("data.pkl", _torch_pickle(arrays))
        add("byteorder", b"little")
        for index, array in enumerate(arrays.values()):
            add(f"data/{index}", array.tobytes())
        add("version", b"3\n")


def write_safetensors(
    path: str | os.PathLike, state_dict: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a `.safetensors` file.

    Args:
        path: The file, or its `gs://` address. It is replaced as a whole.
        state_dict: Arrays by key, such as `to_torch` returns.
        metadata: Text by key, for the header.

    Raises:
        TypeError: If safetensors has no such dtype.
    """
    arrays = _arrays(state_dict, SAFETENSORS)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for key, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[key] = {"dtype": SAFETENSORS[array.dtype.name], "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with _replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.tobytes())


def write_detectron2(path: str | os.PathLike, state_dict: Mapping[str, Any]) -> None:
    """Write a `.pkl` file for detectron2's `MODEL.WEIGHTS`, which it matches by the ends of the keys.

    Args:
        path: The file, or its `gs://` address. It is replaced as a whole.
        state_dict: Arrays by key, such as `to_torch` returns with the style "detectron2".

    Raises:
        TypeError: If NumPy, or PyTorch, has no such dtype.
    """
    arrays = _arrays(state_dict, _NUMPY_DTYPES)
    with _replacing(path) as file:
        file.write(pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + pickle.MARK)
        file.write(_text("__author__") + _text("vicreg_jax") + _text("matching_heuristics") + pickle.NEWTRUE)
        file.write(_text("model") + pickle.EMPTY_DICT + pickle.MARK)
        for key, array in arrays.items():
            file.write(_text(key) + _numpy_array(array))
        file.write(pickle.SETITEMS + pickle.SETITEMS + pickle.STOP)


def _arrays(state_dict: Mapping[str, Any], dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays, contiguous and in the machine's byte order, which is little-endian wherever JAX runs."""
    arrays = {key: np.asarray(value) for key, value in state_dict.items()}
    for key, array in arrays.items():
        if array.dtype.name not in dtypes:
            raise TypeError(f"state_dict must have arrays of {', '.join(dtypes)}; got {key} of {array.dtype}")
    return {key: np.asarray(array, DTYPES[array.dtype.name], order="C") for key, array in arrays.items()}


@contextmanager
def _replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file beside the path that becomes the path at the end, and is deleted on an error."""
    target = open_directory(path, "path")
    unfinished = target.with_name(target.name + ".partial")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _torch_pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of an OrderedDict of tensors. `pickle` itself would have to import torch."""
    parts = [pickle.PROTO, b"\x02", _ORDERED_DICT, pickle.MARK]
    for index, (key, array) in enumerate(arrays.items()):
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        storage = f"ctorch\n{STORAGES[array.dtype.name]}\n".encode()
        parts += [
            _text(key),
            b"ctorch._utils\n_rebuild_tensor_v2\n" + pickle.MARK,
            *(pickle.MARK, _text("storage"), storage, _text(str(index)), _text("cpu"), _number(array.size)),
            pickle.TUPLE + pickle.BINPERSID,
            *(_number(0), _numbers(array.shape), _numbers(strides)),
            *(pickle.NEWFALSE, _ORDERED_DICT),  # no gradient, no hooks
            pickle.TUPLE + pickle.REDUCE,
        ]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _numpy_array(array: np.ndarray) -> bytes:
    """The pickle of an array. NumPy 2 itself would name `numpy._core`, which NumPy 1.25 and older do not have."""
    dtype = [
        b"cnumpy\ndtype\n" + pickle.MARK + _text(array.dtype.str[1:]) + pickle.NEWFALSE + pickle.NEWTRUE,
        pickle.TUPLE + pickle.REDUCE + pickle.MARK + _number(3) + _text(array.dtype.str[0]),
        pickle.NONE * 3 + _number(-1) * 2 + _number(0) + pickle.TUPLE + pickle.BUILD,
    ]
    data = array.tobytes()
    return b"".join(
        [
            b"cnumpy.core.multiarray\n_reconstruct\n" + pickle.MARK + b"cnumpy\nndarray\n",
            _numbers([0]) + pickle.SHORT_BINBYTES + b"\x01b" + pickle.TUPLE + pickle.REDUCE,
            *(pickle.MARK, _number(1), _numbers(array.shape), *dtype, pickle.NEWFALSE),
            pickle.BINBYTES8 + len(data).to_bytes(8, "little") + data,
            pickle.TUPLE + pickle.BUILD,
        ]
    )


_ORDERED_DICT = b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE


def _text(text: str) -> bytes:
    data = text.encode()
    return pickle.BINUNICODE + len(data).to_bytes(4, "little") + data


def _number(number: int) -> bytes:
    if number < 2**31:
        return pickle.BININT + number.to_bytes(4, "little", signed=True)
    data = number.to_bytes(9, "little")
    return pickle.LONG1 + bytes([len(data)]) + data


def _numbers(numbers: Sequence[int]) -> bytes:
    return pickle.MARK + b"".join(map(_number, numbers)) + pickle.TUPLE
