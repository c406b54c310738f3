"""An export is whole or not there, and what is not the model's is refused before it is read."""

import io
import json
import os
import re
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest

from vicreg_jax.encoder import export as export_module
from vicreg_jax.encoder import load_encoder
from vicreg_jax.encoder.export import types_of

KERNEL = "params/conv1/kernel"


@pytest.fixture
def exported(encoder, tmp_path):
    return encoder.export(tmp_path / "export")


def arrays_of(directory):
    with np.load(directory / "encoder.npz") as arrays:
        return dict(arrays)


def test_export_is_the_encoder(encoder, exported):
    loaded = load_encoder(exported)
    assert loaded.digest == encoder.digest
    assert types_of(loaded.variables) == types_of(encoder.variables)
    assert sorted(os.listdir(exported)) == ["config.json", "encoder.npz"]
    assert os.listdir(exported.parent) == ["export"]


def test_digest_is_of_every_weight(encoder, exported):
    arrays = arrays_of(exported)
    arrays["batch_stats/bn1/mean"][0] += 1
    np.savez(exported / "encoder.npz", **arrays)
    assert load_encoder(exported).digest != encoder.digest


def test_earlier_export_and_empty_directory_are_replaced(encoder, exported, tmp_path):
    (exported / "encoder.npz").write_bytes(b"old")
    encoder.export(exported)
    assert load_encoder(exported).digest == encoder.digest
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    encoder.export(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert load_encoder(tmp_path / "empty").digest == encoder.digest
    assert sorted(os.listdir(tmp_path)) == ["empty", "export", "link"]


@pytest.mark.parametrize("is_earlier", [False, True])
@pytest.mark.parametrize("part", ["write_arrays", "write_json"])
def test_killed_in_the_middle(encoder, tmp_path, monkeypatch, part, is_earlier):
    path = tmp_path / "export"
    if is_earlier:
        encoder.export(path)

    def killed(file, content):
        file.write_bytes(b"half")
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(export_module, part, killed)
        patch.setattr(shutil, "rmtree", lambda path: None)  # a kill cleans nothing up
        with pytest.raises(SystemExit):
            encoder.export(path)
        assert (tmp_path / "export.partial").is_dir()
        assert path.exists() == is_earlier
        if is_earlier:
            assert load_encoder(path).digest == encoder.digest
    encoder.export(path)
    assert load_encoder(path).digest == encoder.digest
    assert os.listdir(tmp_path) == ["export"]


def a_file(path):
    path.write_text("mine")


def a_dangling_link(path):
    path.symlink_to("nowhere")


def a_directory_with_other_files(path):
    path.mkdir()
    (path / "thesis.tex").write_text("mine")


@pytest.mark.parametrize(
    ("make", "kind"),
    [(a_file, "a file"), (a_dangling_link, "a link"), (a_directory_with_other_files, "a directory with other files")],
)
def test_what_has_the_name_already_stays(encoder, tmp_path, make, kind):
    path = tmp_path / "export"
    make(path)
    says = (
        f"directory must be a new or an empty directory, or hold only config.json and encoder.npz; got '{path}', {kind}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        encoder.export(path)
    assert os.listdir(tmp_path) == ["export"]
    assert path.is_symlink() or path.is_file() or os.listdir(path) == ["thesis.tex"]


def test_directory_that_cannot_be_written(encoder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^directory must be a writable directory; got '.*/file/export' \(Not a dir"):
        encoder.export(tmp_path / "file" / "export")


def lacks_one(arrays):
    del arrays["params/bn1/bias"]
    return r"with params/bn1/bias: float32\[4\]; got no array in "


def has_one_more(arrays):
    arrays["params/fc/kernel"] = np.zeros((16, 10), np.float32)
    return r"with params/fc/kernel: no array; got float32\[16, 10\] in "


def has_another_shape(arrays):
    arrays[KERNEL] = arrays[KERNEL][..., :3]
    return r"with params/conv1/kernel: float32\[3, 3, 3, 4\]; got float32\[3, 3, 3, 3\] in "


def has_another_type(arrays):
    arrays["batch_stats/bn1/mean"] = arrays["batch_stats/bn1/mean"].astype(np.float64)
    return r"with batch_stats/bn1/mean: float32\[4\]; got float64\[4\] in "


def has_other_channels(arrays):
    arrays[KERNEL] = np.zeros((3, 3, 7, 4), np.float32)
    return r"with params/conv1/kernel: float32\[3, 3, 3, 4\]; got float32\[3, 3, 7, 4\] in "


@pytest.mark.parametrize("change", [lacks_one, has_one_more, has_another_shape, has_another_type, has_other_channels])
def test_weights_of_another_model_are_refused(exported, change):
    arrays = arrays_of(exported)
    says = change(arrays)
    np.savez(exported / "encoder.npz", **arrays)
    with pytest.raises(ValueError, match=f"^path must hold weights of the model in its config.json, {says}"):
        load_encoder(exported)


def test_weights_of_another_config_are_refused(exported):
    config = json.loads((exported / "config.json").read_text())
    config["model"]["width"] = 64.0
    (exported / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"^path must hold weights of the model in its config.json, .*\[1024\]; got "):
        load_encoder(exported)


def header(shape):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return content.getvalue()


def test_header_that_states_too_much_takes_no_memory(exported):
    """The kernel of a model that the config names as well: 2 GiB that are not in the file."""
    config = json.loads((exported / "config.json").read_text())
    config["model"]["width"] = 64.0
    (exported / "config.json").write_text(json.dumps(config))
    with zipfile.ZipFile(exported / "encoder.npz", "w") as archive:
        archive.writestr(f"{KERNEL}.npy", header((2**29,)) + bytes(100))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^path must hold an intact export; .* and states 2147483776\)$"):
        load_encoder(exported)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_compressed_file_is_refused(exported):
    with zipfile.ZipFile(exported / "encoder.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{KERNEL}.npy", header((2**20,)) + bytes(2**22))
    with pytest.raises(ValueError, match=r"^path must hold an intact export; .* and states 4194432\)$"):
        load_encoder(exported)


def cut(content, start):
    del content[start:]


def flip(content, start):
    content[start] ^= 1


@pytest.mark.parametrize("name", [KERNEL, "params/layer2_0/conv1/kernel"])
@pytest.mark.parametrize("damage", [cut, flip])
def test_damaged_export_is_refused(exported, damage, name):
    path = exported / "encoder.npz"
    content = bytearray(path.read_bytes())
    damage(content, content.index(arrays_of(exported)[name].tobytes()))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^path must hold an intact export; got a damaged ") as error:
        load_encoder(exported)
    assert "\n" not in str(error.value)
