"""The end of a run: its summary, its report, and the table on the console."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from vicreg_jax.config import to_json
from vicreg_jax.report.accuracies import shows_balance, unseen_classes
from vicreg_jax.runtime.errors import first_line
from vicreg_jax.runtime.processes import decide
from vicreg_jax.runtime.workdir import read_json, write_json
from vicreg_jax.tasks.task import Task


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
    show_results(console, finished, workdir)
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


def finish(console: Console, workdir: Path, summary: Mapping[str, Any], write_report: Callable[[Path], None]) -> None:
    """Writes `report.html` and `summary.json`, and shows the results. A report that fails is a warning.

    Raises:
        TrainingError: the summary cannot be written.
    """
    report, failure = workdir / "report.html", None
    try:
        write_report(report)
    except Exception as error:  # whatever it is, the numbers are worth more
        failure = first_line(error)
        with suppress(OSError):
            report.unlink()  # of an earlier evaluation
    write_json(workdir / "summary.json", summary)
    show_results(console, summary, workdir)
    if failure is not None:
        console.print(
            f"report.html cannot be written: {failure}; summary.json is complete, rerun the same command to write the "
            "report",
            style="bold yellow",
            soft_wrap=True,
            markup=False,
        )


def show_results(console: Console, summary: Mapping[str, Any], workdir: Path) -> None:
    """Prints the accuracies of `summary.json` beside its baselines, and where the report is."""
    if summary["knn_accuracy"] is None:
        console.print("no accuracies: they need labels in both splits of the evaluation")
    else:
        counts = list(summary["few_label_accuracy"])
        few_labels = (f"{count} label{'s' if count != '1' else ''}" for count in counts)
        images = "training images" if summary["shared_images"] else "the test split"
        title = f"accuracy on {images} (labels per class)"
        table = Table("features", "kNN", "linear", *few_labels, title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        rows = {summary["method"]: summary, **summary["baselines"]}
        is_uneven = shows_balance(rows.values())
        for name, row in rows.items():
            few = (f"{row['few_label_accuracy'][n]:.3f} ± {row['few_label_std'][n]:.3f}" for n in counts)
            table.add_row(name.replace("_", " "), f"{row['knn_accuracy']:.4f}", f"{row['linear_accuracy']:.4f}", *few)
            if is_uneven:
                balanced = (row["knn_balanced_accuracy"], row["linear_balanced_accuracy"])
                table.add_row("  balanced", *(f"{accuracy:.4f}" for accuracy in balanced))
        console.print(table)
        if is_uneven:
            console.print(f"most frequent training class, always predicted: {summary['majority_accuracy']:.4f}")
        if summary["unseen_classes"]:
            console.print(unseen_classes(summary["unseen_classes"]), style="bold yellow", soft_wrap=True)
    console.print(
        f"{summary['steps']} steps in {summary['seconds']:.0f} s, {summary['images_per_second']:.0f} images/s; "
        f"report: {workdir / 'report.html'}",
        soft_wrap=True,
    )
