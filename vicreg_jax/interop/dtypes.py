"""The dtypes of tensors, by NumPy's name, and what PyTorch and safetensors call them."""

import ml_dtypes
import numpy as np

# PyTorch's storage class and safetensors' dtype. PyTorch has no storage class for those after "complex128".
_NAMES = {
    "float64": ("DoubleStorage", "F64"),
    "float32": ("FloatStorage", "F32"),
    "float16": ("HalfStorage", "F16"),
    "bfloat16": ("BFloat16Storage", "BF16"),
    "int64": ("LongStorage", "I64"),
    "int32": ("IntStorage", "I32"),
    "int16": ("ShortStorage", "I16"),
    "int8": ("CharStorage", "I8"),
    "uint8": ("ByteStorage", "U8"),
    "bool": ("BoolStorage", "BOOL"),
    "complex64": ("ComplexFloatStorage", "C64"),
    "complex128": ("ComplexDoubleStorage", None),
    "uint64": (None, "U64"),
    "uint32": (None, "U32"),
    "uint16": (None, "U16"),
    "float8_e4m3fn": (None, "F8_E4M3"),
    "float8_e5m2": (None, "F8_E5M2"),
}
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in _NAMES}
STORAGES = {name: storage for name, (storage, _) in _NAMES.items() if storage}
SAFETENSORS = {name: code for name, (_, code) in _NAMES.items() if code}


def from_bytes(data: bytes, dtype: np.dtype, *, big_endian: bool = False) -> np.ndarray:
    """A flat array of the whole elements in `data`."""
    if big_endian:
        component = dtype.itemsize // (2 if dtype.kind == "c" else 1)
        data = np.frombuffer(data, f"u{component}").byteswap().tobytes()
    return np.frombuffer(data, dtype, len(data) // dtype.itemsize)
