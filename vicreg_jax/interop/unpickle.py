"""Unpickles tensors, dicts, lists, numbers and text, and runs nothing that the pickle names.

A pickle calls the functions that it names. Here every name is looked up in `_STAND_INS`, whose functions only record
their arguments: a tensor becomes a `Tensor`, which says where its values are. Any other name is refused.
"""

import math
import pickle
import pickletools
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vicreg_jax.interop.dtypes import DTYPES, STORAGES, from_bytes

_KNOWN = "only tensors, dicts, lists, numbers and text are read"


class Unreadable(ValueError):
    """What is wrong with a file, as the end of a sentence that begins with its name: "is truncated"."""


class Storage(NamedTuple):
    """A block of memory that tensors share: `size` elements from element `start` of the block `key`."""

    key: str
    dtype: str
    size: int
    start: int = 0


class Tensor(NamedTuple):
    """A tensor's place in its storage; `offset` and `strides` count elements of `dtype`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, data: bytes, *, big_endian: bool) -> np.ndarray:
        """The tensor's values, contiguous, from the bytes of the block."""
        dtype = DTYPES[self.dtype]
        start = self.storage.start * DTYPES[self.storage.dtype].itemsize
        stop = start + self.storage.size * DTYPES[self.storage.dtype].itemsize
        flat = from_bytes(data[start:stop], dtype, big_endian=big_endian)
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) and last >= len(flat):
            raise Unreadable(f"has a tensor that ends at element {last} of a storage of {len(flat)}")
        strides = [stride * dtype.itemsize for stride in self.strides]
        return np.array(np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides), order="C")


class NumpyDtype:
    """Stands in for `numpy.dtype`."""

    __slots__ = ("name", "order")

    def __init__(self, name: str, *_: Any) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        """The dtype, which has numbers as values."""
        dtype = np.dtype(self.name)
        if dtype.kind not in "biufc":
            raise Unreadable(f"has a NumPy array of dtype {dtype}")
        return dtype.newbyteorder(self.order)  # type: ignore[arg-type]


class NumpyArray:
    """Stands in for `numpy.ndarray`."""

    __slots__ = ("_state",)

    def __setstate__(self, state: tuple) -> None:
        self._state = state

    def array(self) -> np.ndarray:
        """The values, contiguous, in the machine's byte order."""
        _, shape, dtype, is_fortran, data = self._state
        flat = np.frombuffer(data, dtype.dtype())
        array = flat.reshape(shape, order="F" if is_fortran else "C")
        return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


class _Dict(dict):
    """Stands in for `OrderedDict`; drops the attributes of a state dict, which are versions of modules."""

    def __setstate__(self, _: Any) -> None:
        pass


class _Function:
    """A function of this file that a pickle may call, but not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise TypeError("a function has no state")


def _is_whole(*numbers: Any) -> bool:
    return all(type(number) is int and number >= 0 for number in numbers)


def _tensor(storage: Storage, dtype: str, offset: int, shape: Sequence, strides: Sequence) -> Tensor:
    if not (isinstance(storage, Storage) and dtype in DTYPES and _is_whole(offset, *shape, *strides)):
        raise Unreadable("has a tensor without a storage")
    return Tensor(storage, dtype, offset, tuple(shape), tuple(strides))


def _rebuild_tensor(storage: Storage, offset: int, shape: Sequence, strides: Sequence, *rest: Any) -> Tensor:
    _check_metadata(*rest[2:])  # after requires_grad and hooks
    return _tensor(storage, storage.dtype, offset, shape, strides)


def _rebuild_tensor_v3(
    storage: Storage, offset: int, shape: Sequence, strides: Sequence, grad: Any, hooks: Any, dtype: str, *rest: Any
) -> Tensor:
    _check_metadata(*rest)
    return _tensor(storage, dtype, offset, shape, strides)


def _check_metadata(metadata: Any = None) -> None:
    if metadata:
        raise Unreadable(f"has a tensor that is marked as {', '.join(metadata)}")


def _rebuild_from_type(function: Any, _: Any, arguments: Sequence, *state: Any) -> Any:
    if not isinstance(function, _Function):
        raise Unreadable("has a tensor that is not rebuilt")
    return function(*arguments)


def _numpy_array(data: bytes, dtype: NumpyDtype, shape: tuple, order: str) -> NumpyArray:
    array = NumpyArray()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _numpy_scalar(dtype: NumpyDtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.dtype(), 1)[0].item()


# NumPy's functions that its pickles name.
_NUMPY: dict[str, Callable] = {
    "multiarray._reconstruct": lambda *_: NumpyArray(),
    "multiarray.scalar": _numpy_scalar,
    "numeric._frombuffer": _numpy_array,
}
# In place of a class or dtype that functions get as an argument there is its name, which has no state to set.
_STAND_INS: dict[str, Any] = {
    "collections.OrderedDict": _Function(_Dict),
    "torch._utils._rebuild_tensor": _Function(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v3": _Function(_rebuild_tensor_v3),
    "torch._utils._rebuild_parameter": _Function(lambda tensor, *_: tensor),
    "torch._utils._rebuild_parameter_with_state": _Function(lambda tensor, *_: tensor),
    "torch._tensor._rebuild_from_type_v2": _Function(_rebuild_from_type),
    "torch.Tensor": "Tensor",
    "torch.nn.parameter.Parameter": "Parameter",
    "torch.Size": _Function(tuple),
    "torch.device": _Function(lambda *place: ":".join(map(str, place))),
    "torch.storage.UntypedStorage": "uint8",
    "torch.UntypedStorage": "uint8",
    **{f"torch.{storage}": name for name, storage in STORAGES.items()},
    **{f"torch.{name}": name for name in DTYPES},
    # In NumPy's own pickles; `numpy.core` before NumPy 2.
    "numpy.ndarray": "ndarray",
    "numpy.dtype": _Function(NumpyDtype),
    "__builtin__.bytes": _Function(lambda: b""),  # protocol 2's empty bytes
    "_codecs.encode": _Function(lambda text, *_: text.encode("latin1")),
    **{f"numpy.{core}.{name}": _Function(function) for core in ("core", "_core") for name, function in _NUMPY.items()},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in _STAND_INS:
            raise Unreadable(f"holds {full_name!r}; {_KNOWN}")
        return _STAND_INS[full_name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or dtype not in DTYPES or not _is_whole(size):
            raise Unreadable(f"has a storage {kind!r} of {dtype!r}")
        whole = Storage(str(key), dtype, size)
        self.storages[whole.key] = whole
        if not view or view[0] is None:
            return whole
        _, start, size = view[0]
        if not _is_whole(start, size) or start + size > whole.size:
            raise Unreadable("has a storage outside of the one that it is part of")
        return Storage(whole.key, dtype, size, start)


def _check_opcodes(file: BinaryIO) -> None:
    """Refuse what `pickle` obeys before it knows better.

    It allocates its memo up to any index, and takes the objects of the process's extension registry without a lookup.
    """
    start = file.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name.startswith("EXT"):
            raise Unreadable(f"holds {opcode.name}; {_KNOWN}")
        if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > count:
            raise Unreadable(f"has an object of number {argument} among {count}")
    file.seek(start)


def unpickle(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Read one pickle from the current position.

    Returns:
        The object, with `Tensor` and `NumpyArray` for tensors, and the storages that it uses, by key.

    Raises:
        Unreadable: If the pickle names anything that is not a tensor, dict, list, number or text.
        Exception: Whatever `pickle` and NumPy raise for a damaged file.
    """
    _check_opcodes(file)
    unpickler = _Unpickler(file)
    return unpickler.load(), unpickler.storages
