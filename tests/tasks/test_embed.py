"""`config.task=embed`: one file with names, features, labels and the encoder's digest, or none."""

import json
import os
import re

import numpy as np
import pytest

from tests.runs import SHORT, launch
from tests.small_encoder import LABELS, NAMES, make_encoder, save_photos, small_config
from vicreg_jax import load_encoder
from vicreg_jax.encoder import Embeddings
from vicreg_jax.runtime.errors import InputError, TrainingError
from vicreg_jax.tasks.embed import files
from vicreg_jax.tasks.embed.task import embed

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


@pytest.fixture
def config(encoder, tmp_path):
    """An export and photos to embed, and a workdir that does not exist."""
    save_photos(tmp_path / "photos")
    encoder.export(tmp_path / "export")
    config = small_config()
    config.data.manual_dir, config.embed.encoder = str(tmp_path / "photos"), str(tmp_path / "export")
    config.embed.output = str(tmp_path / "features.npz")
    config.evaluation.batch_size = 4  # two batches: a multiple of the devices is 8
    config.mesh.data = 8
    return config


def read_npz(path):
    with np.load(path) as arrays:
        return dict(arrays)


def test_npz_of_a_folder(config, encoder, tmp_path, capsys):
    embed(config, tmp_path / "run")
    found = read_npz(tmp_path / "features.npz")
    assert found["names"].tolist() == NAMES
    np.testing.assert_array_equal(found["labels"], LABELS)
    assert found["class_names"].tolist() == ["cat", "dog"]
    assert found["encoder"] == encoder.digest
    assert found["features"].dtype == np.float32
    expected = encoder.embed_folder(tmp_path / "photos").features
    np.testing.assert_allclose(found["features"], expected, rtol=1e-5, atol=1e-5)
    assert sorted(os.listdir(tmp_path)) == ["export", "features.npz", "photos"]
    assert capsys.readouterr().out == f"6 x 16 features of image_folder are in {tmp_path}/features.npz\n"


def test_parquet_of_a_split(config, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_GROUP_BYTES", 4 * encoder.feature_dim)  # one batch is a row group
    config.embed.output, config.embed.split = str(tmp_path / "features.parquet"), "train"
    embed(config, tmp_path / "run")
    table = pq.read_table(tmp_path / "features.parquet")
    assert table.column("name").to_pylist() == NAMES[2:]
    assert table.column("label").to_pylist() == LABELS[2:]
    assert table.schema.metadata == {b"encoder": encoder.digest.encode(), b"class_names": b'["cat", "dog"]'}
    features = np.stack(table.column("features").to_numpy())
    expected = encoder.embed_folder(tmp_path / "photos").features[2:]
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)


def test_run_in_the_workdir_is_the_default(config, encoder, tmp_path):
    config.embed.encoder = config.embed.output = None
    encoder.export(tmp_path / "run")
    embed(config, tmp_path / "run")
    assert read_npz(tmp_path / "run" / "embeddings.npz")["encoder"] == encoder.digest


def test_unreadable_image_is_left_out(config, tmp_path):
    damaged = tmp_path / "photos" / NAMES[3]
    damaged.write_bytes(damaged.read_bytes()[:60])
    config.data.max_unreadable = 0.2
    embed(config, tmp_path / "run")
    found = read_npz(tmp_path / "features.npz")
    assert found["names"].tolist() == NAMES[:3] + NAMES[4:]
    assert len(found["features"]) == len(found["labels"]) == 5
    before = (tmp_path / "features.npz").read_bytes()
    config.data.max_unreadable = 0.1
    with pytest.raises(TrainingError, match=r"^config\.data\.max_unreadable must be at least .*; got 0\.1, but 1 of"):
        embed(config, tmp_path / "run")
    assert (tmp_path / "features.npz").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["export", "features.npz", "photos"]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("embed.encoder", "{}/nothing", "config.embed.encoder must be a run, an export or a file of weights; got"),
        ("embed.encoder", None, "--workdir without config.embed.encoder must be a run, an export or a file of weights"),
        ("embed.output", "{}/a.csv", "config.embed.output must be a path that ends in .npz or .parquet; got"),
        ("embed.output", "{}/a/b.npz", "config.embed.output must be a file in a directory that exists; got"),
        ("embed.split", "valid", "config.embed.split must be one of train, test"),
        ("data.manual_dir", "{}/nothing", "config.data.manual_dir must be a folder; got"),
        ("mesh.data", 3, "config.mesh.data times fsdp must be the number of devices"),
        ("evaluation.batch_size", 0, "config.evaluation.batch_size must be an integer of at least 1"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(config, tmp_path, field, value, says):
    before = sorted(tmp_path.rglob("*"))
    value = value.format(tmp_path) if isinstance(value, str) else value
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=f"^{re.escape(says)}") as error:
        embed(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_file_is_complete_or_not_there(encoder, tmp_path, suffix):
    output = tmp_path / f"features{suffix}"

    def parts():
        yield Embeddings(["a"], np.ones((1, encoder.feature_dim), np.float32), np.zeros(1, np.int32), None)
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match=r"/features\.\w+ cannot be written: .*No space left on device; stopped$"):
        files.write_whole(output, files.writer_for(output), parts(), encoder)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_command_line(finished, environment, tmp_path):
    output = tmp_path / "features.parquet"
    arguments = (f"--config.embed.output={output}", f"--config.embed.encoder={finished[0]}")
    result = launch(environment, tmp_path / "none", *SHORT, "--config.task=embed", *arguments)
    assert result.returncode == 0, result.stderr
    assert os.listdir(tmp_path) == ["features.parquet"]
    encoder = load_encoder(finished[0])
    table = pq.read_table(output)
    assert table.column("name").to_pylist() == [
        *(f"train/{i}" for i in range(1437)),
        *(f"test/{i}" for i in range(360)),
    ]
    assert json.loads(table.schema.metadata[b"class_names"]) == list("0123456789")
    expected = encoder(encoder.open_dataset("digits"))
    np.testing.assert_allclose(np.stack(table.column("features").to_numpy()), expected, rtol=1e-4, atol=1e-4)
