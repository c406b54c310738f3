"""Runs that live at a `gs://` address: the same as in a directory, of an emulator on this machine."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from etils import epath

import vicreg_jax
from tests.runs import ROOT, SHORT, assert_same_end, command, launch
from tests.small_encoder import make_encoder
from vicreg_jax.config import base_config, differences, to_json
from vicreg_jax.runtime.errors import InputError, TrainingError
from vicreg_jax.runtime.storage import is_on_bucket, open_directory
from vicreg_jax.runtime.workdir import check_workdir, held_workdir, read_json, write_config
from vicreg_jax.training.metrics import MetricsWriter, read_metrics


@pytest.fixture
def workdir(monkeypatch):
    """An address whose files are in memory."""
    memory = fsspec.filesystem("memory", skip_instance_cache=True)
    monkeypatch.setattr(memory, "store", {})
    monkeypatch.setattr(memory, "pseudo_dirs", [""])
    monkeypatch.setenv("EPATH_USE_TF", "false")
    monkeypatch.setattr(epath.gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(epath.backend._FileSystemSpecBackend, "fs", lambda self, path: memory)
    return open_directory("gs://bucket/run")


def test_directory_is_a_path(tmp_path):
    assert open_directory("runs/digits") == Path("runs/digits")
    assert open_directory(tmp_path) == tmp_path
    assert not is_on_bucket(open_directory("runs/digits"))


def test_address_stays_one(workdir):
    assert is_on_bucket(workdir)
    assert str(workdir / "checkpoints") == "gs://bucket/run/checkpoints"
    assert str(open_directory(workdir)) == "gs://bucket/run"


@pytest.mark.parametrize("address", ["s3://bucket/run", "https://storage.googleapis.com/bucket/run"])
def test_other_addresses_are_refused(address):
    with pytest.raises(InputError, match=rf"^path must be a directory or a gs:// address; got '{address}'$"):
        open_directory(address, "path")


def test_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"^--workdir requires the package gcsfs \(pip install gcsfs\); got 'gs://bucket/run'$"
    ):
        open_directory("gs://bucket/run")


def test_held_by_whoever_came_last(workdir):
    with held_workdir(workdir, to_json(base_config()), differences):
        first = (workdir / ".lock").read_text()
        write_config(workdir, to_json(base_config()))
        with held_workdir(workdir, to_json(base_config()), differences):
            pass
    assert first.startswith("process ")
    assert sorted(path.name for path in workdir.iterdir()) == [".lock", "config.json"]


def test_export_is_replaced_as_a_whole(workdir):
    encoder = make_encoder()
    for _ in range(2):
        path = encoder.export(workdir / "export")
        assert str(path) == "gs://bucket/run/export"
        assert sorted(file.name for file in path.iterdir()) == ["config.json", "encoder.npz"]
        assert [file.name for file in workdir.iterdir()] == ["export"]
        assert vicreg_jax.load_encoder(path).digest == encoder.digest
    (path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"^directory must be a new .*'gs://bucket/run/export', a directory"):
        encoder.export(path)


def test_run_of_another_config_is_refused(workdir):
    write_config(workdir, to_json(base_config()))
    config = base_config()
    config.seed = 5
    (workdir / "checkpoints" / "30" / "state").mkdir(parents=True)
    (workdir / "checkpoints" / "30" / "state" / "manifest").write_text("")
    check_workdir(workdir, to_json(config), differences)  # not complete yet
    (workdir / "checkpoints" / "30" / "commit_success.txt").write_text("")
    with pytest.raises(InputError, match=r"got 'gs://bucket/run', whose run has another \(seed was 0 and is 5\)"):
        check_workdir(workdir, to_json(config), differences)


class Refused(Exception):
    """As the bucket's client has its own errors, of no common kind."""


def refuse(*_):
    raise Refused("403\nand a long page")


def test_bucket_that_cannot_be_used_is_said_in_a_line(workdir, monkeypatch):
    monkeypatch.setattr(epath.backend._FileSystemSpecBackend, "open", refuse)
    with pytest.raises(
        InputError, match=r"^--workdir must be an existing, writable bucket; got 'gs://bucket/run' \(Refused: 403\)$"
    ):
        check_workdir(workdir, to_json(base_config()), differences)
    with pytest.raises(InputError, match=r"^gs://bucket/run/config.json must be readable JSON; got"):
        read_json(workdir / "config.json")


def steps_logged(workdir):
    return [row["step"] for row in read_metrics(workdir / "metrics.jsonl")]


def test_metrics_are_written_when_synchronized_and_at_the_end(workdir):
    with MetricsWriter(workdir, start_step=0) as writer:
        writer.write({"step": 10})
        writer.write({"step": 20})
        assert steps_logged(workdir) == []
        writer.sync()
        assert steps_logged(workdir) == [10, 20]
        writer.write({"step": 30})
    assert steps_logged(workdir) == [10, 20, 30]
    with MetricsWriter(workdir, start_step=20) as writer:
        assert steps_logged(workdir) == [10, 20]
        writer.write({"step": 25})
    assert steps_logged(workdir) == [10, 20, 25]


def test_metrics_that_cannot_be_written_stop_the_run(workdir, monkeypatch):
    with MetricsWriter(workdir, start_step=0) as writer:
        writer.write({"step": 10})
        with monkeypatch.context() as patch:
            patch.setattr(epath.backend._FileSystemSpecBackend, "open", refuse)
            with pytest.raises(TrainingError, match=r"metrics.jsonl cannot be written: Refused: 403; stopped"):
                writer.sync()


def test_what_ended_the_run_is_said_before_what_its_last_lines_met(workdir, monkeypatch):
    def run():
        with MetricsWriter(workdir, start_step=0) as writer:
            writer.write({"step": 10})
            monkeypatch.setattr(epath.backend._FileSystemSpecBackend, "open", refuse)
            raise KeyError

    with pytest.raises(KeyError):
        run()


FEATURES = """
import sys
import numpy as np
import vicreg_jax
np.save(sys.argv[2], vicreg_jax.load_encoder(sys.argv[1])(np.load(sys.argv[3])))
"""


@pytest.mark.slow
def test_killed_run_ends_bit_for_bit_the_same_and_damage_is_put_aside(finished, environment, tmp_path):
    from tests.bucket import served_bucket

    address = "gs://bucket/run"
    arguments = (*SHORT, "--config.logging.tensorboard=True")
    with served_bucket() as bucket:
        environment = environment | bucket.environment
        with (tmp_path / "killed.txt").open("w") as output:
            run = subprocess.Popen(
                command(address, *arguments), env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )
            with run:
                while "run/checkpoints/15/commit_success.txt" not in bucket.names("run/checkpoints/"):
                    assert run.poll() is None, (tmp_path / "killed.txt").read_text()
                    time.sleep(0.01)
                run.kill()
        logged = [json.loads(line)["step"] for line in bucket.read("run/metrics.jsonl").splitlines()]
        assert logged[0] == 10  # those before a checkpoint are there when it is

        result = launch(environment, address, *arguments)
        assert result.returncode == 0, result.stderr
        assert "resuming from step " in result.stdout
        assert f"report: {address}/report.html" in result.stdout
        assert_same_end(bucket.download("run", tmp_path / "resumed"), finished[0])
        assert b"</html>" in bucket.read("run/report.html")
        assert any(b"loss" in bucket.read(name) for name in bucket.names("run/tensorboard/events"))

        newest = max(bucket.names("run/checkpoints/44/state/d/"), key=lambda name: len(bucket.read(name)))
        content = bytearray(bucket.read(newest))
        content[len(content) // 2] ^= 1
        bucket.write(newest, bytes(content))
        bucket.delete("run/summary.json")
        result = launch(environment, address, *arguments)
        assert result.returncode == 0, result.stderr
        assert "the checkpoint of step 44 is damaged" in result.stdout
        assert "resuming from step 30" in result.stdout
        assert bucket.read(newest.replace("checkpoints", "damaged_checkpoints")) == bytes(content)
        assert_same_end(bucket.download("run", tmp_path / "mended"), finished[0])

        images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
        np.save(tmp_path / "images.npy", images)
        expected = vicreg_jax.load_encoder(finished[0])(images)
        assert launch(environment, address, *SHORT, "--config.task=export").returncode == 0
        for place in (address, address + "/export"):
            line = [sys.executable, "-c", FEATURES, place, tmp_path / "features.npy", tmp_path / "images.npy"]
            subprocess.run(line, env=environment, cwd=ROOT, check=True, capture_output=True)
            np.testing.assert_allclose(np.load(tmp_path / "features.npy"), expected, rtol=1e-4, atol=1e-5)

        result = launch(environment, "gs://nothing/run", *SHORT)
        assert result.returncode == 2
        assert result.stderr.startswith("error: --workdir must be an existing, writable bucket; got 'gs://nothing/run'")
        assert result.stderr.count("\n") == 1
