"""The end of a run: its summary, its report, and the table at the terminal."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from vicreg_jax.config.fields import to_json
from vicreg_jax.runtime.errors import TrainingError
from vicreg_jax.runtime.processes import decide
from vicreg_jax.runtime.workdir import read_json, write_json


def shows_finished_run(console: Console, config: ConfigDict, workdir: Path) -> bool:
    """Whether the run is complete, its results shown; with other evaluation settings it is to be evaluated anew."""
    finished = decide(lambda: read_json(workdir / "summary.json"))
    if finished is None or finished.get("evaluation") != to_json(config)["evaluation"]:
        return False
    console.print("this run is complete")
    show_results(console, finished, workdir)
    return True


def summarize(
    config: ConfigDict,
    mesh: Mesh,
    metrics: Sequence[dict[str, Any]],
    *,
    method: str,
    steps: int,
    epochs: int,
    seconds: float,
    **found: Any,
) -> dict[str, Any]:
    """What `summary.json` holds of every run, and what else was `found`."""
    return {
        "method": method,
        "dataset": config.data.name,
        "steps": steps,
        "epochs": epochs,
        "seconds": round(seconds, 2),
        "images_per_second": statistics.median(row["images_per_second"] for row in metrics),
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        **found,
        "evaluation": to_json(config)["evaluation"],
    }


def finish(console: Console, workdir: Path, summary: dict[str, Any], write_report: Callable[[Path], None]) -> None:
    """Writes `report.html` and then `summary.json`, with which a run is complete, and shows the results.

    Raises:
      TrainingError: the report cannot be written.
    """
    report = workdir / "report.html"
    try:
        write_report(report)
    except OSError as error:
        raise TrainingError(f"{report} cannot be written: {error}; stopped") from error
    write_json(workdir / "summary.json", summary)
    show_results(console, summary, workdir)


def show_results(console: Console, summary: dict[str, Any], workdir: Path) -> None:
    """Prints the accuracies of `summary.json` beside its baselines, and where the report is."""
    if summary["knn_accuracy"] is None:
        console.print("accuracies: none, for the data has no labels")
    else:
        labels_per_class = list(summary["few_label_accuracy"])
        table = Table("accuracy on the test split", "kNN", "linear", *(f"{n} a class" for n in labels_per_class))
        rows = {summary["method"]: summary, **summary["baselines"]}
        for name, row in rows.items():
            few = (f"{row['few_label_accuracy'][n]:.3f} ± {row['few_label_std'][n]:.3f}" for n in labels_per_class)
            table.add_row(name.replace("_", " "), f"{row['knn_accuracy']:.4f}", f"{row['linear_accuracy']:.4f}", *few)
        console.print(table)
    console.print(
        f"{summary['steps']} steps in {summary['seconds']:.0f} s, {summary['images_per_second']:.0f} images/s; "
        f"report: {workdir / 'report.html'}",
        soft_wrap=True,
    )
