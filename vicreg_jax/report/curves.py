"""Metrics over time: one chart per metric, with a title and a sentence on how to read it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vicreg_jax.report.chart import line_chart, number


def all_captions(
    metrics: Sequence[Mapping[str, Any]],
    captions: Mapping[str, tuple[str, str]],
    *,
    hidden: frozenset[str] = frozenset(),
) -> dict[str, tuple[str, str]]:
    """Caption every logged number: those of `captions` first, in their order, then the others by name.

    Args:
        metrics: rows of `metrics.jsonl`.
        captions: title and reading by metric; those that were not logged are dropped.
        hidden: metrics to leave out.
    """
    logged = {name for row in metrics for name, value in row.items() if _is_number(value)}
    others = sorted(logged - hidden - {*captions})
    found = {name: caption for name, caption in captions.items() if name in logged}
    return found | {name: (name.replace("_", " ").capitalize(), "") for name in others}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def charts(metrics: Sequence[Mapping[str, Any]], captions: Mapping[str, tuple[str, str]]) -> str:
    """Show a chart for each of `captions`, or a sentence if nothing was logged."""
    if not metrics:
        return '<p class="muted">No metrics were logged.</p>'
    return chart_grid(metric_figures(metrics, captions))


def chart_grid(figures: Sequence[str]) -> str:
    """Arrange figures in a grid."""
    return f'<div class="charts">{"".join(figures)}</div>'


def metric_figures(
    metrics: Sequence[Mapping[str, Any]],
    captions: Mapping[str, tuple[str, str]],
    references: Mapping[str, float] | None = None,
) -> list[str]:
    """Draw a figure for each of `captions`, by epoch where every row has one, else by step.

    Args:
        metrics: rows of `metrics.jsonl`, by step.
        captions: title and reading by metric.
        references: value of a dashed line, by metric.
    """
    x_label = "epoch" if all("epoch" in row for row in metrics) else "step"
    figures = []
    for name, (title, reading) in captions.items():
        rows = [row for row in metrics if _is_number(row.get(name))]
        x, y = [row[x_label] for row in rows], [row[name] for row in rows]
        chart = line_chart(x, y, name=title, x_label=x_label, reference=(references or {}).get(name))
        figures.append(figure(title, number(y[-1]) if y else "", chart, reading))
    return figures


def figure(title: str, last: str, chart: str, reading: str) -> str:
    """Put a chart on a card: its title and last value above it, and below it how to read it."""
    caption = f"<figcaption>{escape(reading)}</figcaption>" if reading else ""
    header = f"<header><h3>{escape(title)}</h3><span>{escape(last)}</span></header>"
    return f"<figure>{header}{chart}{caption}</figure>"
