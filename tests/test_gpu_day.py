"""The GPU suite: what it starts, skips and stops, and a rehearsal of all of it without a GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_day
from benchmarks.train_step import _given_views
from tests.runs import ROOT
from vicreg_jax.augment import Preprocessing, recipe

PART = gpu_day.Part(seconds=30, command="fake --seconds={seconds}", toy="fake")


@pytest.fixture
def day(monkeypatch, tmp_path):
    """Runs the suite with three parts that only write their file; returns what it printed and which ones ran."""
    monkeypatch.setattr(gpu_day, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    parts = {"first": PART, "second": PART._replace(resumes=True), "long": PART._replace(seconds=300)}
    monkeypatch.setattr(gpu_day, "PARTS", parts)
    ran = []

    def fake(line, *, timeout, **_):
        output = Path(line[-1].removeprefix("--output="))
        ran.append(output.stem)
        output.write_text("{}")
        assert 0 < timeout <= 100
        return subprocess.CompletedProcess(line, 0)

    monkeypatch.setattr(subprocess, "run", fake)

    def run(*arguments):
        ran.clear()
        monkeypatch.setattr(sys, "argv", ["gpu_day", "--seconds=100", f"--output={tmp_path / 'found'}", *arguments])
        return gpu_day.main(), list(ran)

    return run


def test_a_part_that_does_not_fit_the_time_is_left(day, capsys):
    assert day() == (0, ["gpu_first", "gpu_second"])
    assert "left: estimate 300 s" in capsys.readouterr().out


def test_what_has_a_file_is_not_run_again_unless_it_resumes(day, tmp_path):
    day()
    assert day() == (0, ["gpu_second"])
    # Results that were committed count, and a part that resumes starts from them.
    shutil.rmtree(tmp_path / "found")
    for name in ("first", "second"):
        (tmp_path / "results" / f"gpu_{name}.json").write_text(json.dumps({"committed": name}))
    assert day() == (0, ["gpu_second"])
    assert json.loads((tmp_path / "found" / "gpu_first.json").read_text()) == {"committed": "first"}
    shutil.rmtree(tmp_path / "found")
    assert day("--again") == (0, ["gpu_first", "gpu_second"])


@pytest.mark.parametrize(("code", "says"), [(0, "done"), (75, "unfinished"), (1, "failed with exit code 1")])
def test_a_failure_does_not_stop_the_others(day, monkeypatch, capsys, code, says):
    monkeypatch.setattr(subprocess, "run", lambda line, **_: subprocess.CompletedProcess(line, code))
    assert day()[0] == (code == 1)
    printed = capsys.readouterr().out
    assert printed.count(says) == 2


def test_a_part_is_stopped_at_the_end_of_the_time(day, monkeypatch, capsys):
    def too_long(line, *, timeout, **_):
        raise subprocess.TimeoutExpired(line, timeout)

    monkeypatch.setattr(subprocess, "run", too_long)
    day()
    assert "stopped: time was up" in capsys.readouterr().out


def test_every_part_is_a_module_with_a_toy():
    for part in gpu_day.PARTS.values():
        for command in (part.command, part.toy):
            module = command.split()[0].replace(".", "/")
            assert (ROOT / "benchmarks" / f"{module}.py").exists()
        assert part.seconds <= 240


def test_given_views_are_not_one_view_twice():
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 3), np.uint8)
    preprocessing = Preprocessing(2, mean=(0.5,), std=(0.25,))
    first, second = _given_views(None, images, None, recipe("vicreg"), preprocessing, mesh=None)
    np.testing.assert_allclose(first, (images / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-5)
    assert (np.abs(first - second).max(axis=(1, 2, 3)) > 0).all()
    np.testing.assert_array_equal(np.sort(first, axis=0), np.sort(second, axis=0))


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """Python 3.12 with the packages of the GPU machine and the wheels that are brought there, nothing else."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*versions.glob("3.12.*/bin/python"), *filter(None, [shutil.which("python3.12")])]
    found = next((each for each in candidates if subprocess.run([each, "-c", ""], check=False).returncode == 0), None)
    if found is None:
        pytest.skip("needs Python 3.12")
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt-get, for Fashion-MNIST")
    place = tmp_path_factory.mktemp("bare")
    subprocess.run([found, "-m", "venv", place / "venv"], check=True)
    python, site = place / "venv" / "bin" / "python", place / "site"
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "-r", ROOT / "benchmarks/offline/machine.txt"], check=True)
    subprocess.run([ROOT / "benchmarks/offline/collect.sh"], check=True)
    wheels = sorted((ROOT / ".offline" / "wheels").glob("*.whl"))
    assert len(wheels) == 16
    total = sum(file.stat().st_size for file in (ROOT / ".offline").rglob("*"))
    assert total < 64 * 2**20
    subprocess.run([*pip, "--no-index", "--no-deps", "--target", site, *wheels], check=True)
    return python, site


@pytest.mark.slow
@pytest.mark.parametrize("part", [name for name in gpu_day.PARTS if "torch" not in name])
def test_rehearsal(bare_python, tmp_path, part):
    python, site = bare_python
    line = [python, "-m", "benchmarks.gpu_day", "--toy", f"--output={tmp_path}", "--parts", part]
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(site)}
    done = subprocess.run(line, check=False, capture_output=True, text=True, cwd=ROOT, env=variables)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    if gpu_day.PARTS[part].resumes:  # stopped by time
        assert "unfinished" in done.stdout
        return
    found = json.loads((tmp_path / f"gpu_{part}.json").read_text())
    assert found["versions"]["jax"] == "0.11.2"
    assert found["command"].startswith("python -m benchmarks.")
