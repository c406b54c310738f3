"""`load_torch`: each format, dtype and layout of tensors, and where a checkpoint keeps its weights."""

import json
import pickle
import sys
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from tests.interop.torch_files import SAVE, Storage, Tensor, save_legacy, save_zip, tensor
from vicreg_jax.interop import load_torch, write_safetensors

BASE = np.arange(24, dtype=np.float32)
DTYPES = [
    *("float64", "float32", "float16", "int64", "bool", "complex64"),
    ml_dtypes.bfloat16,
]


def example(dtype):
    values = BASE.reshape(4, 6) - 3
    return (values + 1j if dtype == "complex64" else values).astype(dtype)


@pytest.mark.parametrize("save", [*SAVE.values(), lambda path, arrays: write_and_return(path, arrays)])
def test_dtypes(save, tmp_path):
    arrays = {str(np.dtype(dtype)): example(dtype) for dtype in DTYPES}
    is_torch = save in SAVE.values()
    loaded = load_torch(save(tmp_path / "x", {k: tensor(v, k) for k, v in arrays.items()} if is_torch else arrays))
    assert list(loaded) == list(arrays)
    for key, array in arrays.items():
        assert loaded[key].dtype == array.dtype
        np.testing.assert_array_equal(loaded[key], array)


def write_and_return(path, arrays):
    write_safetensors(path, arrays)
    return path


@pytest.mark.parametrize("save", SAVE.values(), ids=SAVE)
def test_views_of_one_storage(save, tmp_path):
    storage = Storage("7", BASE)
    views = {
        "transposed": Tensor(storage, (6, 4), (1, 6)),
        "part": Tensor(storage, (2, 3), (6, 1), 8),
        "steps": Tensor(storage, (2, 2), (12, 3)),
        "broadcast": Tensor(storage, (3, 2), (0, 1), 22),
        "scalar": Tensor(storage, (), (), 23),
        "empty": Tensor(storage, (0, 3), (3, 1), 24),
    }
    loaded = load_torch(save(tmp_path / "x.pt", views))
    rows = BASE.reshape(4, 6)
    expected = {
        "transposed": rows.T,
        "part": rows[1:3, 2:5],
        "steps": rows[::2, :4:3],
        "broadcast": np.broadcast_to(BASE[22:], (3, 2)),
        "scalar": BASE[23],
        "empty": np.empty((0, 3)),
    }
    for key, array in expected.items():
        np.testing.assert_array_equal(loaded[key], array)
        assert loaded[key].flags.c_contiguous
        assert loaded[key].shape == array.shape
    loaded["transposed"][:] = -1  # no other array changes
    np.testing.assert_array_equal(loaded["part"], expected["part"])


def test_storage_that_is_part_of_another_one(tmp_path):
    part = Tensor(Storage("0", BASE, ("1", 4, 6)), (2, 3), (3, 1))
    loaded = load_torch(save_legacy(tmp_path / "x.pt", {"part": part}))
    np.testing.assert_array_equal(loaded["part"], BASE[4:10].reshape(2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_archive_of_a_big_endian_machine(dtype, tmp_path):
    array = example(dtype)
    path = save_zip(tmp_path / "x.pt", {"x": tensor(array)}, byte_order="big")
    np.testing.assert_array_equal(load_torch(path)["x"], array)


def test_older_format_is_little_endian_on_any_machine(tmp_path):
    path = save_legacy(tmp_path / "x.pt", {"x": tensor(BASE)}, little_endian=False)
    np.testing.assert_array_equal(load_torch(path)["x"], BASE)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_of_numpy_arrays(protocol, tmp_path):
    arrays = {
        "plain": example("float32"),
        "fortran": np.asfortranarray(example("float64")),
        "big": example(">f4"),
        "scalar": np.float32(3),
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x", "matching_heuristics": True}, protocol))
    loaded = load_torch(path)
    assert list(loaded) == ["plain", "fortran", "big"]  # a scalar is a number, not an array
    for key, array in loaded.items():
        np.testing.assert_array_equal(array, arrays[key])
        assert array.dtype.isnative
    assert "torch" not in sys.modules


WEIGHTS = OrderedDict(weight=tensor(BASE))


@pytest.mark.parametrize(
    "checkpoint",
    [
        WEIGHTS,
        {"epoch": 3, "arch": "resnet50", "state_dict": WEIGHTS, "optimizer": {"state": {0: {"m": tensor([1.0], "1")}}}},
        {"model": WEIGHTS, "best": np.float64(0.5), "done": True, "none": None, "lr": [0.1, (1, 2)]},
        {"model": {"state_dict": WEIGHTS}},
        {"model_state": WEIGHTS, "model": "resnet50"},
    ],
)
@pytest.mark.parametrize("save", SAVE.values(), ids=SAVE)
def test_weights_are_found_in_a_checkpoint(save, checkpoint, tmp_path):
    loaded = load_torch(save(tmp_path / "x.pth", checkpoint))
    assert list(loaded) == ["weight"]
    np.testing.assert_array_equal(loaded["weight"], BASE)


def test_state_dict_with_attributes(tmp_path):
    weights = OrderedDict(WEIGHTS)
    weights._metadata = OrderedDict({"": {"version": 1}})  # as torch.nn.Module.state_dict adds
    assert list(load_torch(save_zip(tmp_path / "x.pth", weights))) == ["weight"]


def test_entry_chooses(tmp_path):
    other = {"other": tensor(BASE)}
    path = save_zip(tmp_path / "x.pth", {"state_dict": WEIGHTS, "ema": other, "epoch": 3})
    assert list(load_torch(path, entry="ema")) == ["other"]
    with pytest.raises(
        ValueError, match=r"^entry must be one of state_dict, ema, epoch, the entries of '.*'; got 'teacher'$"
    ):
        load_torch(path, entry="teacher")
    with pytest.raises(ValueError, match=r"^path must be a file with a dict of tensors as its entry 'epoch'; got "):
        load_torch(path, entry="epoch")


def test_a_safetensors_key_is_no_entry_of_a_checkpoint(tmp_path):
    write_safetensors(tmp_path / "x", {"model": BASE, "z": BASE}, metadata={"format": "pt"})
    assert list(load_torch(tmp_path / "x")) == ["model", "z"]
    header = json.loads((tmp_path / "x").read_bytes()[8:].split(b"}}")[0] + b"}}")
    assert header["__metadata__"] == {"format": "pt"}


def test_no_weights(tmp_path):
    with pytest.raises(
        ValueError, match=r"^path must be a file with a dict of tensors; got '.*' with epoch, net \(`entry` chooses one"
    ):
        load_torch(save_zip(tmp_path / "x.pth", {"epoch": 3, "net": WEIGHTS}))
    with pytest.raises(ValueError, match=r"got '.*' with an object of type list"):
        load_torch(save_zip(tmp_path / "y.pth", [1, 2]))
    with pytest.raises(ValueError, match=r"^path must be an existing file; got '.*missing.pth'$"):
        load_torch(tmp_path / "missing.pth")


def test_program_of_torchscript(tmp_path):
    path = save_zip(tmp_path / "x.pt", WEIGHTS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("name/constants.pkl", b"")
    with pytest.raises(ValueError, match="which is a program of TorchScript"):
        load_torch(path)
