"""The runner of the experiments, with a launcher that takes no time: what is run, kept, and gone on with."""

import json
import sys

import pytest

from benchmarks.experiments import batch_size, methods_digits, methods_fashion_mnist, regularization, runner, terms
from benchmarks.experiments.tables import grouped, markdown, over_seeds
from vicreg_jax.methods import METHODS

LAUNCHER = """
import json, pathlib, signal, sys, time
arguments = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
workdir = pathlib.Path(arguments["workdir"])
workdir.mkdir(parents=True, exist_ok=True)
with open("calls", "a") as file:
    file.write(workdir.name + "\\n")
seed = int(arguments["config.seed"])
if seed == 13:
    sys.exit("error: unlucky")
if seed == 99:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    time.sleep(60)
accuracies = {"knn_accuracy": 0.5 + seed / 10, "linear_accuracy": 0.9, "few_label_accuracy": {"5": 0.7}}
summary = accuracies | {"loss": 1.0, "steps": 3, "seconds": 2.0, "baselines": {"raw_pixels": accuracies}}
(workdir / "summary.json").write_text(json.dumps(summary))
(workdir / "metrics.jsonl").write_text(json.dumps({"step": 3, "effective_rank": 4.0, "embedding_std": 0.1}) + "\\n")
"""


def make_run(name, seed):
    return runner.Run(name, "configs/digits.py", {"seed": seed}, {"method": "vicreg", "seed": seed})


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The directory of the fake launcher; returns the names of the runs that it was called for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "launch.py").write_text(LAUNCHER)
    return lambda: sorted((tmp_path / "calls").read_text().split())


def parse(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["experiment", "--runs=runs", "--output=results/out.json", *arguments])
    return runner.parse_arguments("", "experiment")


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_done_is_not_done_again(calls, monkeypatch, tmp_path, jobs):
    arguments = parse(monkeypatch, f"--jobs={jobs}")
    first = runner.run_all([make_run("a", 0), make_run("b", 1)], arguments)
    assert calls() == ["a", "b"]
    results = runner.run_all([make_run("a", 0), make_run("b", 2), make_run("c", 3)], arguments)
    # b is another run now, for its seed is.
    assert calls() == ["a", "b", "b", "c"]
    assert list(results) == ["a", "b", "c"]
    assert results["a"] == first["a"]
    assert results["b"]["knn_accuracy"] == 0.7
    content = json.loads((tmp_path / "results" / "out.json").read_text())
    assert content["runs"] == results
    assert {"command", "commit", "hardware", "versions"} <= content.keys()
    table = {name: over_seeds(rows) for name, rows in grouped(results, "method").items()}
    assert table["vicreg"]["knn"] == pytest.approx({"mean": 2 / 3, "least": 0.5, "most": 0.8})
    assert "| vicreg | 0.667 (0.500 to 0.800) |" in markdown(table, ["knn"])


def test_failed_run_is_named_and_the_others_kept(calls, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="b: error: unlucky"):
        runner.run_all([make_run("a", 0), make_run("b", 13), make_run("c", 1)], parse(monkeypatch))
    assert list(json.loads((tmp_path / "results" / "out.json").read_text())["runs"]) == ["a", "c"]


def test_time_is_up(calls, monkeypatch, tmp_path):
    runner.run_all([make_run("a", 0)], parse(monkeypatch))
    with pytest.raises(SystemExit) as stopped:
        runner.run_all([make_run("a", 0), make_run("b", 99), make_run("c", 1)], parse(monkeypatch, "--seconds=4"))
    assert stopped.value.code == 75
    assert calls() == ["a", "b"]
    runner.run_all([make_run("a", 0), make_run("c", 1)], parse(monkeypatch))
    assert calls() == ["a", "b", "c"]
    # What another command gave is not taken for what was asked.
    with pytest.raises(SystemExit) as stopped:
        runner.run_all([make_run("a", 5)], parse(monkeypatch, "--seconds=0"))
    assert stopped.value.code == 75


def test_experiments_hold_what_they_say():
    assert {run.labels["method"] for run in methods_digits.RUNS} == set(METHODS)
    assert {run.labels["method"] for run in methods_fashion_mnist.RUNS} == set(METHODS)
    assert len(terms.RUNS) == 3 * len(terms.PAPER)
    # The three rows of directions have no column without terms.
    assert len(regularization.RUNS) == 2 * (3 * len(regularization.ROWS) - 3)
    assert batch_size.BATCH_SIZES == (32, 256, 1024)
    for runs in (methods_digits.RUNS, methods_fashion_mnist.RUNS, terms.RUNS, regularization.RUNS):
        assert len({run.name for run in runs}) == len(runs)
