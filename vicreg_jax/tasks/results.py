"""The end of a run: its summary, its report, and what the console shows of it."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from vicreg_jax.config import to_json
from vicreg_jax.runtime.errors import first_line
from vicreg_jax.runtime.processes import decide
from vicreg_jax.runtime.workdir import read_json, write_json
from vicreg_jax.tasks.task import Outcome, Task


def shows_finished_run(console: Console, task: Task, workdir: Path) -> bool:
    """Shows the results of a complete run, and returns whether it is complete.

    A run with other evaluation settings, or without its report, is evaluated again. The summary of a shorter run, which
    is being extended, is removed.
    """

    def finished_summary() -> dict[str, Any] | None:
        summary = read_json(workdir / "summary.json")
        if summary is not None and summary["steps"] < task.plan.total_steps:
            (workdir / "summary.json").unlink()
            return None
        return summary if (workdir / "report.html").exists() else None

    finished = decide(finished_summary)
    if finished is None or finished.get("evaluation") != to_json(task.experiment.config)["evaluation"]:
        return False
    console.print("this run is complete")
    show_results(console, task, finished, workdir)
    return True


def summarize(
    task: Task, metrics: Sequence[Mapping[str, Any]], *, seconds: float, results: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of `summary.json`."""
    config, mesh, plan = task.experiment.config, task.experiment.mesh, task.plan
    return {
        "method": task.name,
        "dataset": config.data.name,
        "steps": plan.total_steps,
        "epochs": plan.total_steps // plan.steps_per_epoch,
        "seconds": round(seconds, 2),
        "images_per_second": statistics.median(row["images_per_second"] for row in metrics),
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        **{name: metrics[-1][name] for name in task.final_metrics},
        **results,
        "evaluation": to_json(config)["evaluation"],
    }


def finish(console: Console, task: Task, workdir: Path, outcome: Outcome) -> None:
    """Writes `report.html` and `summary.json`, and shows the results. A report that fails is a warning.

    Raises:
        TrainingError: the summary cannot be written.
    """
    report, failure = workdir / "report.html", None
    try:
        task.write_report(report, outcome)
    except Exception as error:  # whatever it is, the numbers are worth more
        failure = first_line(error)
        with suppress(OSError):
            report.unlink()  # of an earlier evaluation
    write_json(workdir / "summary.json", outcome.summary)
    show_results(console, task, outcome.summary, workdir)
    if failure is not None:
        console.print(
            f"report.html cannot be written: {failure}; summary.json is complete, rerun the same command to write the "
            "report",
            style="bold yellow",
            soft_wrap=True,
            markup=False,
        )


def show_results(console: Console, task: Task, summary: Mapping[str, Any], workdir: Path) -> None:
    """Prints the accuracies of `summary.json` beside its baselines, and where the report is."""
    task.show_accuracies(console, summary)
    console.print(
        f"{summary['steps']} steps in {summary['seconds']:.0f} s, {summary['images_per_second']:.0f} images/s; "
        f"report: {workdir / 'report.html'}",
        soft_wrap=True,
    )
