"""The runner of the experiments, with a fake launcher: what it launches, records and resumes."""

import collections
import json
import sys

import pytest

from benchmarks.experiments import (
    batch_size,
    fair_table,
    methods_digits,
    methods_fashion_mnist,
    multi_crop_digits,
    regularization,
    runner,
    terms,
)
from benchmarks.experiments.tables import grouped, markdown, over_seeds
from configs import digits
from vicreg_jax.augment import recipe
from vicreg_jax.methods import METHODS

VIEWS = ("global_views", "local_views", "local_size", "local_crop_area")

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
    """Changes to the directory of the fake launcher; returns a function for the names of the launched runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "launch.py").write_text(LAUNCHER)
    return lambda: sorted((tmp_path / "calls").read_text().split())


def parse(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["experiment", "--runs=runs", "--output=results/out.json", *arguments])
    return runner.parse_arguments("", "experiment")


@pytest.mark.parametrize("jobs", [1, 2])
def test_finished_runs_are_not_repeated(calls, monkeypatch, tmp_path, jobs):
    arguments = parse(monkeypatch, f"--jobs={jobs}")
    first = runner.run_all([make_run("a", 0), make_run("b", 1)], arguments)
    assert calls() == ["a", "b"]
    results = runner.run_all([make_run("a", 0), make_run("b", 2), make_run("c", 3)], arguments)
    # b has another seed now, so it is another run.
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


def test_failed_run_is_named_and_the_others_are_recorded(calls, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="b: error: unlucky"):
        runner.run_all([make_run("a", 0), make_run("b", 13), make_run("c", 1)], parse(monkeypatch))
    assert list(json.loads((tmp_path / "results" / "out.json").read_text())["runs"]) == ["a", "c"]


@pytest.mark.slow
def test_time_is_up_during_a_run(calls, monkeypatch, tmp_path):
    runner.run_all([make_run("a", 0)], parse(monkeypatch))
    with pytest.raises(SystemExit) as stopped:
        runner.run_all([make_run("a", 0), make_run("b", 99), make_run("c", 1)], parse(monkeypatch, "--seconds=4"))
    assert stopped.value.code == 75
    assert calls() == ["a", "b"]
    runner.run_all([make_run("a", 0), make_run("c", 1)], parse(monkeypatch))
    assert calls() == ["a", "b", "c"]


def test_time_is_up_before_a_run(calls, monkeypatch):
    runner.run_all([make_run("a", 0)], parse(monkeypatch))
    # The recorded result belongs to another command, so the run counts as missing.
    with pytest.raises(SystemExit) as stopped:
        runner.run_all([make_run("a", 5)], parse(monkeypatch, "--seconds=0"))
    assert stopped.value.code == 75
    assert calls() == ["a"]


def test_runs_of_the_experiments():
    assert {run.labels["method"] for run in methods_digits.RUNS} == set(METHODS)
    assert {run.labels["method"] for run in methods_fashion_mnist.RUNS} == set(METHODS)
    assert len(terms.RUNS) == 3 * len(terms.PAPER)
    # The three rows of directions have no column "none".
    assert len(regularization.RUNS) == 2 * (3 * len(regularization.ROWS) - 3)
    assert batch_size.BATCH_SIZES == (32, 256, 1024)
    for name, row in multi_crop_digits.ROWS.items():
        views = recipe("digits", **{option: row.get(f"augment.{option}") for option in VIEWS})
        assert len(views) * row["train.epochs"] == 180, name
    for runs in (
        methods_digits.RUNS,
        methods_fashion_mnist.RUNS,
        multi_crop_digits.RUNS,
        terms.RUNS,
        regularization.RUNS,
    ):
        assert len({run.name for run in runs}) == len(runs)


@pytest.mark.parametrize("views", fair_table.VIEWS)
def test_each_method_of_the_fair_table_has_the_same_budget(views):
    configs = {f"configs/digits.py:{method}": digits.get_config(method) for method in fair_table.OWN}
    tuning = fair_table.tuning_runs(configs, {"model.width": 1.0}, views)
    expected = set(configs) - ({"configs/digits.py:corinfomax"} if views == "multi_crop" else set())
    assert collections.Counter(run.config for run in tuning) == dict.fromkeys(expected, 5)
    assert len({str(run.overrides) for run in tuning if run.config.endswith("lejepa")}) == 5
    assert all("data.test_split" in run.overrides for run in tuning)
    tuned = {run.name: {"few_label_accuracy": {"5": 0.9 if run.name.endswith("half_rate") else 0.5}} for run in tuning}
    final = fair_table.final_runs(configs, {"model.width": 1.0}, views, tuned)
    assert collections.Counter(run.config for run in final) == dict.fromkeys(expected, 3)
    for run in final:
        rate = configs[run.config].optim.base_lr
        assert run.overrides.items() >= {"model.width": 1.0, "optim.base_lr": rate / 2}.items()
        assert not run.overrides.keys() & fair_table.VALIDATION.keys()
    for run in tuning + final:
        seen = run.overrides.get("train.epochs", 90) * (2 + run.overrides.get("augment.local_views", 0))
        assert seen == 180
    assert len({run.name for run in tuning + final}) == len(tuning + final)


def test_rows_of_the_fair_table():
    row = {"few_label_accuracy": {"5": 0.5}}
    results = {
        f"{method}_{views}_{seed}": {
            "command": [f"--config=configs/fashion_mnist.py:{method},vit"],
            "labels": {"seed": seed, "views": views},
            "baselines": {"raw_pixels": row, "random_init": row},
            **row,
        }
        for views in fair_table.VIEWS
        for method in ("vicreg", "byol")
        for seed in fair_table.SEEDS
    }
    rows = ["vicreg", "byol", "vicreg, multi-crop", "byol, multi-crop", "raw_pixels", "random_init"]
    assert list(fair_table.table_of(results)) == rows


def test_settings_that_are_tried_stay_in_range():
    config = digits.get_config("lejepa")
    config.method.sigreg_weight = 0.6
    assert fair_table.trials(config)["twice_own"] == {"method.sigreg_weight": pytest.approx(0.75)}
    config = digits.get_config("byol")
    config.method.momentum = 0.9
    assert fair_table.trials(config)["half_own"] == {"method.momentum": pytest.approx(0.95)}
