"""The numbers of a run: its facts, and its accuracies beside the baselines'."""

from collections.abc import Mapping
from html import escape
from typing import Any

from vicreg_jax.report.chart import number

TRAINING_FACTS = {
    "steps": "Steps",
    "epochs": "Epochs",
    "seconds": "Seconds",
    "images_per_second": "Images per second",
    "loss": "Final loss",
    "devices": "Devices",
}
_BASELINES = {
    "raw_pixels": "raw pixels",
    "random_init": "a random network",
    "random_projection": "a random projection of the same codes",
}


def facts(summary: Mapping[str, Any], titles: Mapping[str, str] = TRAINING_FACTS) -> str:
    """How long the run was and how fast: what the summary has of the `titles`' names."""
    found = {title: summary[name] for name, title in titles.items() if summary.get(name) is not None}
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{title}</dt><dd>{escape(_text(fact))}</dd></div>" for title, fact in found.items())
        + "</dl>"
    )


def _text(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def results(summary: Mapping[str, Any]) -> str:
    """The table of accuracies, this run first, and what it says in a sentence."""
    if summary.get("linear_accuracy") is None:
        return '<p class="muted">The data has no labels, so there are no accuracies.</p>'
    rows = {str(summary.get("method", "this run")): summary}
    rows |= {_BASELINES.get(name, name): row for name, row in summary.get("baselines", {}).items()}
    columns = {"kNN": _column(rows, "knn_accuracy"), "linear": _column(rows, "linear_accuracy")}
    for count in summary.get("few_label_accuracy", {}):
        title = f"{count} label{'s' if count != '1' else ''} a class"
        columns[title] = _column(rows, "few_label_accuracy", "few_label_std", count)
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in columns)
    body = "".join(
        f'<tr{" class=run" if index == 0 else ""}><th scope="row">{escape(name)}</th>'
        + "".join(column[index] for column in columns.values())
        + "</tr>"
        for index, name in enumerate(rows)
    )
    return (
        f'<p class="verdict">{escape(_verdict(rows))}</p><div class="scroll"><table class="results">'
        "<caption>Accuracy on the test split, in per cent, at the last step. Few labels: mean ± standard "
        "deviation over draws of the labeled images, the same draws in every row. The best of a column is "
        f'bold.</caption><thead><tr><th scope="col">Features</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _verdict(rows: Mapping[str, Mapping[str, Any]]) -> str:
    linear = {name: row.get("linear_accuracy") for name, row in rows.items()}
    run, *baselines = [(name, f"{100 * value:.1f} %") for name, value in linear.items() if value is not None]
    verdict = f"A linear classifier on the frozen features gets {run[1]} of the test images right"
    others = " and ".join(f"{accuracy} on {name}" for name, accuracy in baselines)
    return f"{verdict}; it gets {others}." if others else f"{verdict}."


def _column(
    rows: Mapping[str, Mapping[str, Any]], name: str, spread: str | None = None, key: str | None = None
) -> list[str]:
    """The cells of one accuracy, a row of the table each."""

    def pick(row: Mapping[str, Any], field_name: str) -> float | None:
        value = row.get(field_name)
        return value.get(key) if key is not None and value is not None else value

    values = [pick(row, name) for row in rows.values()]
    best = max((value for value in values if value is not None), default=None)
    cells = []
    for row, value in zip(rows.values(), values, strict=True):
        deviation = None if spread is None else pick(row, spread)
        text = "-" if value is None else f"{100 * value:.1f}"
        text += "" if deviation is None else f" <small>± {100 * deviation:.1f}</small>"
        cells.append(f"<td{' class=best' if value is not None and value == best else ''}>{text}</td>")
    return cells
