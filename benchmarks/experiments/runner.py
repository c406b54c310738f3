"""Launches the runs of an experiment with `launch.py`, and records their results in one JSON file.

Rerun an interrupted experiment to resume it: finished runs are read from the JSON file, unfinished ones resume from
their checkpoints in `--runs`.
"""

import argparse
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import environment

_PREEMPTED = 75  # launch.py's exit code when preempted, and ours when time is up
_FROM_SUMMARY = ("accuracy", "knn_accuracy", "linear_accuracy", "few_label_accuracy", "loss", "steps", "seconds")
_FROM_METRICS = ("embedding_std", "effective_rank", "invariance", "variance", "covariance")


class Run(NamedTuple):
    """One run.

    Attributes:
        name: unique name in the experiment, and name of the workdir.
        config: file of `configs/` with its argument.
        overrides: config fields to change, and their values.
        labels: what tables and figures group by.
    """

    name: str
    config: str
    overrides: dict[str, Any]
    labels: dict[str, Any]


def parse_arguments(description: str, experiment: str, **others: dict[str, Any]) -> argparse.Namespace:
    """Parses the command line, which is the same for every experiment but for `others`: options of one, by name."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/experiments") / experiment, help="directory of the workdirs"
    )
    parser.add_argument("--output", type=Path, default=Path(f"benchmarks/results/{experiment}.json"))
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs; two or more run on separate CPU cores")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="stop after that time; rerun the same command to resume"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="config field of every run")
    for name, options in others.items():
        parser.add_argument(f"--{name}", **options)
    arguments = parser.parse_args()
    arguments.deadline = time.monotonic() + arguments.seconds
    return arguments


class _Experiment:
    def __init__(self, arguments: argparse.Namespace):
        self._arguments = arguments
        self._deadline = arguments.deadline
        self._lock = threading.Lock()
        self.failed: list[str] = []
        self.results: dict[str, Any] = {}
        if arguments.output.exists():
            self.results = json.loads(arguments.output.read_text())["runs"]

    def command(self, run: Run) -> list[str]:
        fields = [f"--config.{field}={value}" for field, value in run.overrides.items()]
        fields += [f"--config.{setting}" for setting in self._arguments.set]
        return [f"--config={run.config}", *fields]

    def is_done(self, run: Run) -> bool:
        return self.results.get(run.name, {}).get("command") == self.command(run)

    def work(self, waiting: "queue.Queue[Run]", cores: set[int] | None) -> None:
        while time.monotonic() < self._deadline:
            try:
                run = waiting.get_nowait()
            except queue.Empty:
                return
            self._do(run, cores)

    def _do(self, run: Run, cores: set[int] | None) -> None:
        workdir, command = self._arguments.runs / run.name, self.command(run)
        line = [sys.executable, "launch.py", *command, f"--workdir={workdir}"]
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if cores is not None:
            os.sched_setaffinity(process.pid, cores)
        try:
            _, error = process.communicate(timeout=min(self._deadline - time.monotonic(), 1e6))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            _, error = process.communicate()
        with self._lock:
            if process.returncode == _PREEMPTED:
                return
            if process.returncode:
                self.failed.append(f"{run.name}: {error.strip()}")
                print(f"{run.name} failed: {error.strip()}", flush=True)
                return
            summary = json.loads((workdir / "summary.json").read_text())
            last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
            row = {name: summary[name] for name in _FROM_SUMMARY if name in summary}
            row |= {name: last[name] for name in _FROM_METRICS if name in last}
            facts = environment()
            self.results[run.name] = {
                "labels": run.labels,
                "command": command,
                "commit": facts["commit"],
                "date": facts["date"],
                **row,
                "baselines": summary["baselines"],
            }
            self.write()
            print(f"{run.name}: {_in_short(row)}, {row['seconds']:.0f} s", flush=True)

    def write(self) -> None:
        output: Path = self._arguments.output
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_suffix(".partial")
        partial.write_text(json.dumps(environment() | {"runs": self.results}, indent=1) + "\n")
        os.replace(partial, output)


def _in_short(row: dict[str, Any]) -> str:
    if "accuracy" in row:
        return f"accuracy {row['accuracy']:.4f}"
    few = {count: round(accuracy, 3) for count, accuracy in row["few_label_accuracy"].items()}
    return (
        f"kNN {row['knn_accuracy']:.4f}, linear {row['linear_accuracy']:.4f}, few labels {few}, "
        f"effective rank {row['effective_rank'] or math.nan:.1f}, std {row['embedding_std']:.3g}"
    )


def run_all(runs: Sequence[Run], arguments: argparse.Namespace) -> dict[str, Any]:
    """Launches the unfinished runs.

    Returns:
        The results of each run, by name, once all are finished.

    Raises:
        SystemExit: with code 75 if time is up before that, with code 1 if a run failed.
    """
    experiment = _Experiment(arguments)
    waiting: queue.Queue[Run] = queue.Queue()
    for run in runs:
        if not experiment.is_done(run):
            waiting.put(run)
    print(f"{waiting.qsize()} of {len(runs)} runs to do", flush=True)
    cores: list[set[int] | None] = [None]
    if arguments.jobs > 1:
        ours = sorted(os.sched_getaffinity(0))
        share = max(1, len(ours) // arguments.jobs)
        cores = [set(ours[job * share : (job + 1) * share]) for job in range(arguments.jobs)]
    workers = [threading.Thread(target=experiment.work, args=(waiting, each)) for each in cores]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if experiment.failed:
        sys.exit("failed: " + "; ".join(experiment.failed))
    if missing := [run.name for run in runs if not experiment.is_done(run)]:
        print(f"time is up, {len(missing)} runs are left; rerun the same command to resume")
        sys.exit(_PREEMPTED)
    return {run.name: experiment.results[run.name] for run in runs}
