"""Writers: what they write is read back, equal weights give equal files, and an error leaves nothing."""

import pickle
import struct

import ml_dtypes
import numpy as np
import pytest

from vicreg_jax.interop import load_torch, write_detectron2, write_safetensors, write_torch

WRITERS = {"torch": write_torch, "safetensors": write_safetensors, "detectron2": write_detectron2}
WEIGHTS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "half": np.ones(3, np.float16),
    "counter": np.zeros((), np.int64),
    "empty": np.zeros((0, 2), np.float32),
    "big": np.arange(3, dtype=">f4"),
    "reversed": np.arange(3, dtype=np.float32)[::-1],
    "größe": np.ones(1, bool),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_round_trip(write, tmp_path):
    write(tmp_path / "x", WEIGHTS)
    loaded = load_torch(tmp_path / "x")
    assert list(loaded) == list(WEIGHTS)
    for key, array in WEIGHTS.items():
        assert loaded[key].dtype.name == array.dtype.name
        np.testing.assert_array_equal(loaded[key], array)
        assert loaded[key].shape == array.shape


@pytest.mark.parametrize("write", [write_torch, write_safetensors])
def test_bfloat16(write, tmp_path):
    write(tmp_path / "x", {"x": np.arange(4).astype(ml_dtypes.bfloat16)})
    assert load_torch(tmp_path / "x")["x"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_equal_weights_give_equal_files(write, tmp_path):
    write(tmp_path / "x", WEIGHTS)
    write(tmp_path / "y", {key: array.copy() for key, array in WEIGHTS.items()})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "y"]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_bad_dtype_leaves_the_old_file(write, tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(TypeError, match=r"^state_dict must have arrays of float64, .*; got name of <U3$"):
        write(tmp_path / "x", {"name": np.array("abc")})
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_detectron2_reads_a_plain_pickle(tmp_path):
    write_detectron2(tmp_path / "x.pkl", {"a": WEIGHTS["matrix"]})
    content = pickle.loads((tmp_path / "x.pkl").read_bytes(), encoding="latin1")
    assert content.keys() == {"model", "__author__", "matching_heuristics"}
    assert content["matching_heuristics"] is True
    np.testing.assert_array_equal(content["model"]["a"], WEIGHTS["matrix"])


def test_tensors_are_aligned_in_the_file(tmp_path):
    values = np.arange(1000, 1020, dtype=np.float32)
    write_torch(tmp_path / "x.pth", {"odd": np.ones(3, np.float16), "x": values})
    assert (tmp_path / "x.pth").read_bytes().index(values.tobytes()) % 64 == 0
    write_safetensors(tmp_path / "x.safetensors", {"x": values})
    assert struct.unpack("<Q", (tmp_path / "x.safetensors").read_bytes()[:8])[0] % 8 == 0
