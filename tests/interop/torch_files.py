"""Writes files in PyTorch's two formats without PyTorch, as independently of the reader as `pickle` allows."""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import ml_dtypes  # noqa: F401  (NumPy then knows bfloat16)
import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
CLASSES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
}


class Storage(NamedTuple):
    """A storage under a key, with the index of its first element and its length if it is a part of another one."""

    key: str
    values: np.ndarray
    part: tuple | None = None


class Tensor:
    """Pickled as PyTorch pickles a tensor."""

    def __init__(self, storage, shape, strides, offset=0):
        self.arguments = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


def tensor(values, key="0"):
    values = np.asarray(values)
    strides = tuple(stride // values.itemsize for stride in values.strides)
    return Tensor(Storage(key, values.ravel()), values.shape, strides)


@contextmanager
def torch_modules():
    """Modules with the names that PyTorch's pickles contain, while something is pickled."""
    modules = {name: ModuleType(name) for name in ("torch", "torch._utils")}
    for name in CLASSES.values():
        setattr(modules["torch"], name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2():
        raise AssertionError("pickle names this function, and must not call it")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    modules["torch._utils"]._rebuild_tensor_v2 = _rebuild_tensor_v2
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield modules["torch"]
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def dump(content, *, legacy=False):
    """The pickle, and its storages by key."""
    storages = {}
    with torch_modules() as torch:

        class Pickler(pickle.Pickler):
            def persistent_id(self, value):
                if not isinstance(value, Storage):
                    return None
                storages[value.key] = value.values
                class_ = getattr(torch, CLASSES[value.values.dtype.name])
                view = (value.part,) if legacy else ()
                return ("storage", class_, value.key, "cpu", value.values.size, *view)

        file = io.BytesIO()
        Pickler(file, protocol=2).dump(content)
    return file.getvalue(), storages


def save_zip(path, content, *, byte_order="little", pickled=None):
    data, storages = dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("name/data.pkl", pickled or data)
        archive.writestr("name/byteorder", byte_order)
        for key, values in storages.items():
            archive.writestr(f"name/data/{key}", swapped(values) if byte_order == "big" else values.tobytes())
    return path


def swapped(values):
    """The bytes of the numbers, each one reversed; of a complex number both parts."""
    size = values.itemsize // (2 if values.dtype.kind == "c" else 1)
    return values.view(np.uint8).reshape(-1, size)[:, ::-1].tobytes()


def save_legacy(path, content, *, pickled=None, little_endian=True):
    data, storages = dump(content, legacy=True)
    machine = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"int": 4}}
    parts = [
        *(pickle.dumps(part, protocol=2) for part in (MAGIC, 1001, machine)),
        pickled or data,
        pickle.dumps(sorted(storages), protocol=2),
    ]
    for key in sorted(storages):
        parts += [storages[key].size.to_bytes(8, "little"), storages[key].tobytes()]
    path.write_bytes(b"".join(parts))
    return path


SAVE = {"zip": save_zip, "legacy": save_legacy}
