"""Accuracies on several datasets: one row each, every accuracy beside its baselines."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from vicreg_jax.report.accuracies import trained_on, unseen_classes
from vicreg_jax.report.chart import number
from vicreg_jax.report.label_free import LABEL_FREE

Column = tuple[str, str | None]  # a field of a row, and the number of labels per class

_SHORT_NAMES = {"raw_pixels": "pixels", "random_init": "random", "given_weights": "given"}  # of baselines


def dataset_table(datasets: Mapping[str, Mapping[str, Any]]) -> str:
    """Show the results on several datasets; a sentence if there are none.

    Args:
        datasets: by name, as under `datasets` or `transfer` in `summary.json`: the accuracies, None without labels,
            and those of the `baselines`; `train_images`, `test_images`, `classes` and `unseen_classes`; `label_free`
            if it was computed.
    """
    if not datasets:
        return '<p class="muted">No other datasets.</p>'
    columns = accuracy_columns(datasets.values())
    metrics = LABEL_FREE if any("label_free" in row for row in datasets.values()) else {}
    titles = [*columns, *(title for title, _ in metrics.values())]
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}<br><small>{_size(row)}</small></th>'
        + "".join(_accuracy(row, column) for column in columns.values())
        + "".join(metric_cell(row, metric) for metric in metrics)
        + "</tr>"
        for name, row in datasets.items()
    )
    caption = (
        "Accuracy on the test split, in percent. Below it, that of raw pixels and of the network before training. Bold "
        "is above both."
    )
    for name, row in datasets.items():
        if row.get("trained_on"):
            caption += f" {escape(name)}: {escape(trained_on(**row['trained_on']))}."
        if row.get("unseen_classes"):
            caption += f" {escape(name)}: {escape(unseen_classes(row['unseen_classes']))}."
    return (
        f'<div class="scroll"><table class="results"><caption>{caption}</caption>'
        f'<thead><tr><th scope="col">Dataset</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _size(row: Mapping[str, Any]) -> str:
    classes = "unlabeled" if row["classes"] is None else f"{row['classes']} classes"
    return f"{row['train_images']} and {row['test_images']} images, {classes}"


def accuracy_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, Column]:
    """The accuracies that some row has, by title."""
    counts = dict.fromkeys(count for row in rows for count in row.get("few_label_accuracy") or ())
    few = {f"{n} label{'s' if n != '1' else ''} per class": ("few_label_accuracy", n) for n in counts}
    return {"kNN": ("knn_accuracy", None), "Linear": ("linear_accuracy", None)} | few


def accuracy_of(row: Mapping[str, Any], column: Column) -> float | None:
    """An accuracy of a run or of a baseline; None where there is none."""
    field, count = column
    found = row.get(field)
    return found if count is None or found is None else found.get(count)


def accuracy_cell(row: Mapping[str, Any], column: Column, *, is_best: bool) -> str:
    """A cell with an accuracy in percent, and below it those of the baselines."""
    ours = accuracy_of(row, column)
    if ours is None:
        return "<td>-</td>"
    known = {name: accuracy_of(other, column) for name, other in (row.get("baselines") or {}).items()}
    below = "".join(
        f"<br><small>{escape(_SHORT_NAMES.get(name, name))} {100 * other:.1f}</small>"
        for name, other in known.items()
        if other is not None
    )
    return f"<td><span{' class=best' if is_best else ''}>{100 * ours:.1f}</span>{below}</td>"


def metric_cell(row: Mapping[str, Any], metric: str) -> str:
    """A cell with a metric of `label_free`."""
    value = (row.get("label_free") or {}).get(metric)
    return f"<td>{'-' if value is None else number(value)}</td>"


def _accuracy(row: Mapping[str, Any], column: Column) -> str:
    ours, others = (
        accuracy_of(row, column),
        [accuracy_of(other, column) for other in (row.get("baselines") or {}).values()],
    )
    is_best = ours is not None and all(ours > other for other in others if other is not None)
    return accuracy_cell(row, column, is_best=is_best)
