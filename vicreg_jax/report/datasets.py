"""Accuracies on several datasets: one row each, every accuracy beside its baselines."""

from collections.abc import Mapping
from html import escape
from typing import Any

from vicreg_jax.report.accuracies import unseen_classes
from vicreg_jax.report.chart import number
from vicreg_jax.report.label_free import LABEL_FREE


def dataset_table(datasets: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, str]) -> str:
    """Show the results on several datasets; a sentence if there are none.

    Args:
        datasets: by name, as under `datasets` or `transfer` in `summary.json`: the accuracies, None without labels,
            and those of the `baselines`; `train_images`, `test_images`, `classes` and `unseen_classes`; `label_free`
            if it was computed.
        baselines: title by baseline.
    """
    if not datasets:
        return '<p class="muted">No other datasets.</p>'
    columns = {"kNN": ("knn_accuracy", None), "Linear": ("linear_accuracy", None)}
    counts = {count: None for row in datasets.values() for count in row.get("few_label_accuracy") or ()}
    for count in counts:
        columns[f"{count} label{'s' if count != '1' else ''} per class"] = ("few_label_accuracy", count)
    metrics = LABEL_FREE if any("label_free" in row for row in datasets.values()) else {}
    titles = [*columns, *(title for title, _ in metrics.values())]
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}<br><small>{_size(row)}</small></th>'
        + "".join(_accuracy(row, field, count, baselines) for field, count in columns.values())
        + "".join(_metric(row, metric) for metric in metrics)
        + "</tr>"
        for name, row in datasets.items()
    )
    caption = (
        "Accuracy on the test split, in percent; below it, that of the baselines under the same protocol. Bold: above "
        "all of them."
    )
    for name, row in datasets.items():
        if row.get("unseen_classes"):
            caption += f" {escape(name)}: {escape(unseen_classes(row['unseen_classes']))}."
    return (
        f'<div class="scroll"><table class="results"><caption>{caption}</caption>'
        f'<thead><tr><th scope="col">Dataset</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _size(row: Mapping[str, Any]) -> str:
    classes = "unlabeled" if row["classes"] is None else f"{row['classes']} classes"
    return f"{row['train_images']} and {row['test_images']} images, {classes}"


def _accuracy(row: Mapping[str, Any], field: str, count: str | None, baselines: Mapping[str, str]) -> str:
    def value(of: Mapping[str, Any]) -> float | None:
        found = of.get(field)
        return found if count is None or found is None else found.get(count)

    ours = value(row)
    if ours is None:
        return "<td>-</td>"
    others = {baselines.get(name, name): value(other) for name, other in (row.get("baselines") or {}).items()}
    known = {title: other for title, other in others.items() if other is not None}
    best = " class=best" if all(ours > other for other in known.values()) else ""
    below = "".join(f"<br><small>{escape(title)} {100 * other:.1f}</small>" for title, other in known.items())
    return f"<td><span{best}>{100 * ours:.1f}</span>{below}</td>"


def _metric(row: Mapping[str, Any], metric: str) -> str:
    value = (row.get("label_free") or {}).get(metric)
    return f"<td>{'-' if value is None else number(value)}</td>"
