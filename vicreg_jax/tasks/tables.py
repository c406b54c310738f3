"""The tables of accuracies on the console."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from vicreg_jax.report.accuracies import classifier_rows, shows_balance, trained_on, unseen_classes


def show_feature_accuracies(console: Console, summary: Mapping[str, Any]) -> None:
    """Prints the kNN, linear and few-label accuracies of `summary.json`, and those of its baselines."""
    if summary["knn_accuracy"] is None:
        console.print("no accuracies: they need labels in both splits of the evaluation")
        return
    counts = list(summary["few_label_accuracy"])
    few_labels = (f"{count} label{'s' if count != '1' else ''}" for count in counts)
    title = f"accuracy on {_images(summary)} (labels per class)"
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
    if summary.get("trained_on"):
        console.print(trained_on(**summary["trained_on"]), soft_wrap=True)
    if summary["unseen_classes"]:
        console.print(unseen_classes(summary["unseen_classes"]), style="bold yellow", soft_wrap=True)


def show_classifier_accuracies(console: Console, summary: Mapping[str, Any]) -> None:
    """Prints the top-1 and top-5 accuracies of `summary.json` of a supervised run, and those of its baselines."""
    columns = {"top-1": ("accuracy", ".4f"), "top-5": ("top5_accuracy", ".4f"), "learning rate": ("learning_rate", "g")}
    shown = {title: column for title, column in columns.items() if summary.get(column[0]) is not None}
    title = f"accuracy on {_images(summary)}"
    table = Table("network", *shown, title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name, row in classifier_rows(summary).items():
        table.add_row(name, *(format(row[entry], form) for entry, form in shown.values()))
    console.print(table)


def _images(summary: Mapping[str, Any]) -> str:
    return "training images" if summary["shared_images"] else "the test split"
