"""The table of a finished run, at the terminal."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from vicreg_jax.config import to_json
from vicreg_jax.processes import decide
from vicreg_jax.workdir import read_json


def shows_finished_run(console: Console, config: ConfigDict, workdir: Path) -> bool:
    """Whether the run is complete, its results shown; with other evaluation settings it is to be evaluated anew."""
    finished = decide(lambda: read_json(workdir / "summary.json"))
    if finished is None or finished.get("evaluation") != to_json(config)["evaluation"]:
        return False
    console.print("this run is complete")
    show_results(console, finished, workdir)
    return True


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
