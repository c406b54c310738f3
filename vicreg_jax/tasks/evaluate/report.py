"""What the task `evaluate` shows: a table on the console, and `report.html`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from vicreg_jax.report import dataset_table, facts, render_page, write_page

_FACTS = {
    "model": "Backbone",
    "feature_dim": "Features",
    "devices": "Devices",
    "encoder": "Encoder",
}


def write_evaluation_report(path: Path, summary: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes the report atomically.

    Args:
        path: of the page.
        summary: as in `summary.json`.
        config: every field, nested by section.
    """
    sections = {"results": ("Datasets", dataset_table(summary["datasets"]))}
    title = f"Evaluation of {summary['encoder']}"
    write_page(path, render_page(title, facts(summary, _FACTS), sections, config=config))


def show_datasets(console: Console, datasets: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a table per dataset: the encoder, raw pixels and the random network."""
    for name, results in datasets.items():
        if results["knn_accuracy"] is None:
            console.print(f"{name}: no accuracies, they need labels in both splits", soft_wrap=True)
            continue
        counts = list(results["few_label_accuracy"])
        few_labels = (f"{count} label{'s' if count != '1' else ''}" for count in counts)
        title = f"{name}: accuracy on the test split (labels per class)"
        table = Table("features", "kNN", "linear", *few_labels, title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for features, row in {"encoder": results, **results["baselines"]}.items():
            few = (f"{row['few_label_accuracy'][n]:.3f} ± {row['few_label_std'][n]:.3f}" for n in counts)
            accuracies = f"{row['knn_accuracy']:.4f}", f"{row['linear_accuracy']:.4f}"
            table.add_row(features.replace("_", " "), *accuracies, *few)
        console.print(table)
