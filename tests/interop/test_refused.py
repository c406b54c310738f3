"""`load_torch` runs nothing, and says in one line what is wrong with a file."""

import json
import os
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest

from tests.interop.torch_files import SAVE, Storage, Tensor, dump, save_legacy, save_zip, tensor
from vicreg_jax.interop import load_torch, unpickle, write_detectron2, write_safetensors, write_torch


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(marker):
    """Pickles that would write the file `marker`, and the name by which each is refused."""
    command, source = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    text = command.encode()
    for protocol in (0, 2, 4):
        yield "'posix.system'", pickle.dumps(Call(os.system, command), protocol)
        yield "'builtins.eval'", pickle.dumps({"state_dict": [Call(eval, source)]}, protocol, fix_imports=False)
    yield "'os.system'", b"(S'" + text + b"'\nios\nsystem\n."  # INST
    yield "'os.system'", b"(cos\nsystem\nS'" + text + b"'\no."  # OBJ
    yield "'subprocess.Popen'", b"\x80\x02csubprocess\nPopen\n(X" + struct.pack("<I", len(text)) + text + b"t\x81."
    yield "'builtins.getattr'", b"cbuiltins\ngetattr\n(ctorch._utils\n_rebuild_tensor_v2\nS'__globals__'\ntR."
    yield "EXT1", b"\x80\x02\x82\x01."
    yield "'planted_module.run'", b"cplanted_module\nrun\n)R."
    yield "'collections.OrderedDict.fromkeys'", b"\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93."
    yield "'numpy.load'", b"cnumpy\nload\n(S'x.npy'\ntR."
    yield "'argparse.Namespace'", b"\x80\x02cargparse\nNamespace\n)\x81}b."


@pytest.fixture
def marker(tmp_path, monkeypatch):
    (tmp_path / "planted_module.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "imported").exists()
    assert "planted_module" not in sys.modules


def test_attacks_work_where_nothing_is_refused(tmp_path):
    name, attack = next(attacks(tmp_path / "ran"))
    pickle.loads(attack)
    assert (tmp_path / "ran").exists()
    assert name == "'posix.system'"


def test_code_is_refused_and_does_not_run(marker, tmp_path):
    for number, (name, attack) in enumerate(attacks(marker)):
        for save in SAVE.values():
            with pytest.raises(
                ValueError, match=r"^path must be .*only tensors, dicts, lists, numbers and text"
            ) as info:
                load_torch(save(tmp_path / f"{number}.pth", {}, pickled=attack))
            assert name in str(info.value)
        # As the first, second, third and last pickle of the older format.
        whole = [*(pickle.dumps(part) for part in (0x1950A86A20F9469CFC6C, 1001, {})), dump({})[0], pickle.dumps([])]
        for place in range(len(whole)):
            path = tmp_path / "x.pth"
            path.write_bytes(b"".join([*whole[:place], attack, *whole[place + 1 :]]))
            if attack[:1] == pickle.PROTO or place > 0:
                with pytest.raises(ValueError, match=r"only tensors, dicts, lists, numbers and text"):
                    load_torch(path)


@pytest.mark.parametrize(
    "attack",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n}S'_function'\nS'x'\nsb.",  # a state for a function
        b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'_function'\nS'x'\nstb.",  # attributes for it
        b"ccollections\nOrderedDict\n}S'__call__'\nS'x'\nsb.",
        b"ctorch\nFloatStorage\n)R.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(S'x'\nN)tR.",
        b"(S'storage'\nS'os'\nS'0'\nS'cpu'\nI4\ntQ.",  # a storage of an unknown class
        b"(S'module'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(S'x'\nI0\n(I1\nt(I1\ntI00\nNtR.",
    ],
)
def test_misused_stand_ins_are_refused_and_unchanged(attack, tmp_path):
    before = dict(unpickle._STAND_INS)
    with pytest.raises(ValueError, match=r"^path must be a complete PyTorch or safetensors file; got"):
        load_torch(save_zip(tmp_path / "x.pth", {}, pickled=attack))
    assert before == unpickle._STAND_INS
    assert load_torch(save_zip(tmp_path / "y.pth", {"x": tensor([1.0])}))["x"] == 1


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((5,), (1,), 0), ((4,), (1,), 1), ((2, 2), (3, 1), 0), ((1,), (1,), 10**18), ((2,), (-1,), 1), ((2,), (1,), -1)],
)
@pytest.mark.parametrize("save", SAVE.values(), ids=SAVE)
def test_tensor_outside_of_its_storage(save, shape, strides, offset, tmp_path):
    storage = Storage("0", np.arange(4, dtype=np.float32))
    with pytest.raises(ValueError, match=r"^path must be .*, which has a tensor "):
        load_torch(save(tmp_path / "x.pt", {"x": Tensor(storage, shape, strides, offset)}))


def test_impossible_index_allocates_nothing(tmp_path):
    attack = pickle.dumps({})[:-1] + b"r\xff\xff\xff\x7f."  # would take 34 GB
    with pytest.raises(ValueError, match=r"which has an object of number 2147483647 among \d$"):
        load_torch(save_zip(tmp_path / "x.pth", {}, pickled=attack))


def test_numpy_array_of_objects(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"x": np.array([None])}, 2))
    with pytest.raises(ValueError, match=r"which has a NumPy array of dtype object$"):
        load_torch(tmp_path / "x.pkl")


WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}
WRITE = {
    "zip": write_torch,
    "detectron2": write_detectron2,
    "safetensors": write_safetensors,
    "legacy": lambda path, arrays: save_legacy(path, {key: tensor(array, key) for key, array in arrays.items()}),
}


@pytest.mark.parametrize("write", WRITE.values(), ids=WRITE)
def test_truncated_anywhere(write, tmp_path):
    path = tmp_path / "x"
    write(path, WEIGHTS)
    whole = path.read_bytes()
    assert list(load_torch(path)) == ["a", "b"]
    for size in range(0, len(whole), 5):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"^path must be a complete PyTorch or safetensors file; got '[^\n]*$"):
            load_torch(path)


@pytest.mark.parametrize("write", WRITE.values(), ids=WRITE)
def test_damaged_anywhere(write, tmp_path):
    path = tmp_path / "x"
    write(path, WEIGHTS)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    messages = []
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] = random.integers(256)
        path.write_bytes(damaged)
        try:
            load_torch(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(message.startswith("path must be") and "\n" not in message for message in messages)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "has none of these formats"),
        (b"version https://git-lfs.github.com/spec/v1\n", "has none of these formats"),
        (b"\0" * 257 + b"ustar" + b"\0" * 300, "is of PyTorch 0.1"),
        (b"\xff" * 8 + b"{", "has none of these formats"),
        ((20).to_bytes(8, "little") + b'{"a":', "is truncated: its header has 5 of 20 bytes"),
    ],
)
def test_foreign_files(content, reason, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=f"^path must be a complete PyTorch .*x.pth', which {reason}$"):
        load_torch(tmp_path / "x.pth")


def test_zip_archive_of_something_else(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    with pytest.raises(ValueError, match=r"which is a zip archive, but not one of PyTorch$"):
        load_torch(tmp_path / "x.npz")


def test_truncated_storage_is_named(tmp_path):
    path = tmp_path / "x.pth"
    data, _ = dump({"x": tensor(np.arange(4, dtype=np.float32), "3")})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("name/data.pkl", data)
        archive.writestr("name/data/3", bytes(10))
    with pytest.raises(ValueError, match=r"which is truncated: storage 3 has 10 of 16 bytes$"):
        load_torch(path)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, r"has a tensor of shape \[3\] in 8 bytes"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}, "is truncated: it has 8 of 16 bytes of tensors"),
        ({"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}, "has a tensor of dtype 'F4'"),
        ({"dtype": "F32", "shape": [2]}, "is truncated, damaged or foreign .*"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}, r"has a tensor of shape \[-2\] in -8 bytes"),
    ],
)
def test_bad_safetensors(entry, reason, tmp_path):
    header = json.dumps({"x": entry}).encode()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match=f", which {reason}$"):
        load_torch(tmp_path / "x")
