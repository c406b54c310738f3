"""Several runs on one page: curves over one another, accuracies, metrics without labels, settings that differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from vicreg_jax.report.chart import COLORS, number, overlay_chart
from vicreg_jax.report.curves import chart_grid, figure
from vicreg_jax.report.datasets import accuracy_cell, accuracy_columns, accuracy_of, metric_cell
from vicreg_jax.report.label_free import LABEL_FREE
from vicreg_jax.report.page import render_page

_BASELINES = {
    "raw_pixels": "raw pixels",
    "random_init": "random initialization",
    "given_weights": "the weights before training",
}
_MIN_RANKED = 3  # runs of a rank correlation

# Metrics that mean the same in every run; all others are of the loss, and are compared within a method.
_SHARED_CHARTS = {
    "knn_accuracy": ("kNN accuracy", "On the test split, during training."),
    "probe_accuracy": ("Online probe accuracy", "Of a linear classifier trained alongside the encoder."),
    "embedding_std": (
        "Embedding std",
        "Of one batch. Near 0: complete collapse. The healthy value depends on the method.",
    ),
    "effective_rank": ("Effective rank", "Dimensions that the embeddings of one batch use."),
    "learning_rate": ("Learning rate", ""),
    "gradient_norm": ("Gradient norm", ""),
    "update_norm": ("Update norm", ""),
    "images_per_second": ("Images per second", "Excluding compilation."),
    "input_wait": ("Waiting for input", "Share of the time that the devices had to wait for images."),
}
_NO_CURVES = frozenset({"step", "epoch", "seconds", "skipped_updates"})


@dataclass(frozen=True)
class RunResults:
    """What is compared of a run.

    Attributes:
        name: of the run, different from those of the others.
        summary: as in `summary.json`; empty for a run that is not complete.
        metrics: rows of `metrics.jsonl`, by step.
        config: every field by dotted name.
    """

    name: str
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]

    @property
    def method(self) -> str:
        """Of the run."""
        return str(self.config.get("method.name", "unknown"))


def render_comparison(runs: Sequence[RunResults]) -> str:
    """Render the comparison of runs as an HTML document.

    Args:
        runs: at least one; the order decides the colors.
    """
    sections = {
        "runs": ("Runs", _runs(runs)),
        "accuracy": ("Accuracy", _accuracies(runs)),
        "label_free": ("Metrics without labels", _label_free(runs)),
        "curves": ("Training curves", _shared_curves(runs)),
    }
    for index, method in enumerate(dict.fromkeys(run.method for run in runs)):
        sections[f"loss_{index}"] = (f"Loss of {escape(method)}", _method_curves(runs, method))
    sections["settings"] = ("Settings that differ", _settings(runs))
    legend = "".join(f"<span>{_swatch(index)}{escape(run.name)}</span>" for index, run in enumerate(runs))
    return render_page(f"Comparison of {len(runs)} runs", f'<nav class="legend">{legend}</nav>', sections, style=_STYLE)


def _runs(runs: Sequence[RunResults]) -> str:
    titles = {
        "dataset": "Dataset", "epochs": "Epochs", "steps": "Steps", "seconds": "Seconds",
        "images_per_second": "Images per second", "devices": "Devices",
    }  # fmt: skip
    rows = [
        [escape(run.method)]
        + [_text(run.summary.get(name, "-")) for name in titles]
        + ["" if run.summary else "not complete"]
        for run in runs
    ]
    return _table(["Method", *titles.values(), ""], runs, [[f"<td>{cell}</td>" for cell in row] for row in rows])


def _accuracies(runs: Sequence[RunResults]) -> str:
    """A table for the runs' own dataset, and one for each other dataset that a run was evaluated on."""
    own = [run.summary for run in runs]
    tables = [_accuracy_table(runs, own)] if any(row.get("knn_accuracy") is not None for row in own) else []
    for name in dict.fromkeys(name for row in own for name in row.get("transfer", {})):
        rows = [row.get("transfer", {}).get(name, {}) for row in own]
        tables.append(f"<h3>On {escape(name)}</h3>{_accuracy_table(runs, rows)}")
    return "".join(tables) or '<p class="muted">No accuracies: no run is complete and has labels.</p>'


def _accuracy_table(runs: Sequence[RunResults], rows: Sequence[Mapping[str, Any]]) -> str:
    """A row per run; a baseline that is the same for all of them has a row of its own, any other stands below."""
    baselines = [row["baselines"] for row in rows if row.get("baselines")]
    shared = {
        name: of_first
        for name, of_first in (baselines[0] if baselines else {}).items()
        if all(others.get(name) == of_first for others in baselines)
    }
    columns = accuracy_columns(rows)
    best = {
        title: max((value for row in rows if (value := accuracy_of(row, column)) is not None), default=None)
        for title, column in columns.items()
    }

    def cells(row: Mapping[str, Any]) -> list[str]:
        own = {name: value for name, value in (row.get("baselines") or {}).items() if name not in shared}
        return [
            accuracy_cell({**row, "baselines": own}, column, is_best=accuracy_of(row, column) == best[title])
            for title, column in columns.items()
        ]

    last = {
        _BASELINES.get(name, name): [accuracy_cell(row, column, is_best=False) for column in columns.values()]
        for name, row in shared.items()
    }
    caption = "Accuracy on the test split at the last step, in percent; the best run of each column is bold."
    return _table(list(columns), runs, [cells(row) for row in rows], caption, last)


def _label_free(runs: Sequence[RunResults]) -> str:
    known = [run.summary.get("label_free") for run in runs]
    if not any(known):
        return '<p class="muted">No run has metrics without labels.</p>'
    cells = [[metric_cell(run.summary, metric) for metric in LABEL_FREE] for run in runs]
    titles = [title for title, _ in LABEL_FREE.values()]
    readings = " ".join(f"{title}: {reading}" for title, reading in LABEL_FREE.values())
    return _table(titles, runs, cells, readings) + _rankings(runs)


def _rankings(runs: Sequence[RunResults]) -> str:
    """How well each metric ranks the runs, where there are enough: dots, and rank correlations."""
    names = [run.name for run in runs]
    accuracy = [run.summary.get("linear_accuracy") for run in runs]
    metrics: dict[str, list[Any]] = {
        title: [(run.summary.get("label_free") or {}).get(metric) for run in runs]
        for metric, (title, _) in LABEL_FREE.items()
    }
    if len({run.method for run in runs}) == 1:
        metrics["Final loss"] = [run.summary.get("loss") for run in runs]
    figures = []
    for title, values in metrics.items():
        ranked = {
            index: ([value], [linear])
            for index, (value, linear) in enumerate(zip(values, accuracy, strict=True))
            if value is not None and linear is not None
        }
        if len(ranked) >= _MIN_RANKED:
            x, y = zip(*((x[0], y[0]) for x, y in ranked.values()), strict=True)
            figures.append(figure(title, "", overlay_chart(ranked, names, title), _correlations(x, y)))
    if not figures:
        return f'<p class="muted">Rank correlations with the accuracy need {_MIN_RANKED} complete runs with labels.</p>'
    text = (
        "Linear accuracy by each metric, one dot per run, and how alike the two rank the runs: 1 in the same order, -1 "
        "in the opposite one. It means little for few runs, and nothing for runs on different images."
    )
    return f'<h3>Do they rank the runs as the labels do?</h3><p class="muted">{text}</p>{chart_grid(figures)}'


def _correlations(x: Sequence[float], y: Sequence[float]) -> str:
    from scipy import stats

    if len(set(x)) == 1 or len(set(y)) == 1:
        return f"{len(x)} runs, no ranking: all are equal."
    spearman, kendall = stats.spearmanr(x, y).statistic, stats.kendalltau(x, y).statistic
    return f"{len(x)} runs: Spearman {spearman:.2f}, Kendall {kendall:.2f}."


def _shared_curves(runs: Sequence[RunResults]) -> str:
    figures = [
        figure(title, "", chart, reading)
        for name, (title, reading) in _SHARED_CHARTS.items()
        if (chart := _curve(dict(enumerate(runs)), name, runs))
    ]
    return chart_grid(figures) if figures else '<p class="muted">No metrics were logged.</p>'


def _method_curves(runs: Sequence[RunResults], method: str) -> str:
    """The loss and its terms, of the runs of one method."""
    same = {index: run for index, run in enumerate(runs) if run.method == method}
    logged = {name: None for run in same.values() for row in run.metrics for name in row}
    figures = [
        figure(name.replace("_", " ").capitalize(), "", chart, "")
        for name in logged
        if name not in _NO_CURVES and name not in _SHARED_CHARTS and (chart := _curve(same, name, runs))
    ]
    if not figures:
        return '<p class="muted">No metrics were logged.</p>'
    text = '<p class="muted">Compare a loss only between runs with the same settings of the method.</p>'
    return (text if len(same) > 1 else "") + chart_grid(figures)


def _curve(shown: Mapping[int, RunResults], name: str, runs: Sequence[RunResults]) -> str | None:
    """A chart of one metric, by epoch where every row has one; None if no run logged it."""
    x_label = "epoch" if all("epoch" in row for run in shown.values() for row in run.metrics) else "step"
    lines = {}
    for index, run in shown.items():
        rows = [row for row in run.metrics if isinstance(row.get(name), int | float)]
        if rows:
            lines[index] = [row[x_label] for row in rows], [row[name] for row in rows]
    return overlay_chart(lines, [run.name for run in runs], x_label) if lines else None


def _settings(runs: Sequence[RunResults]) -> str:
    """The fields of the config that are not the same in all runs."""
    fields = dict.fromkeys(name for run in runs for name in run.config)
    different = [name for name in fields if len({repr(run.config.get(name)) for run in runs}) > 1]
    if not different:
        return '<p class="muted">None.</p>'
    head = "".join(f'<th scope="col">{_swatch(index)}{escape(run.name)}</th>' for index, run in enumerate(runs))
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(str(run.config.get(name, '-')))}</td>" for run in runs)
        + "</tr>"
        for name in different
    )
    return (
        f'<div class="scroll"><table class="results settings"><thead><tr><th scope="col">Field</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _table(
    titles: Sequence[str],
    runs: Sequence[RunResults],
    cells: Sequence[Sequence[str]],
    caption: str = "",
    last: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """A table with a row per run, and `last` ones by their titles."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "".join(
        f'<tr><th scope="row">{_swatch(index)}{escape(run.name)}</th>{"".join(row)}</tr>'
        for index, (run, row) in enumerate(zip(runs, cells, strict=True))
    )
    body += "".join(
        f'<tr class="muted"><th scope="row">{escape(title)}</th>{"".join(row)}</tr>'
        for title, row in (last or {}).items()
    )
    caption = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table class="results">{caption}<thead><tr><th scope="col">Run</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _swatch(index: int) -> str:
    return f'<i class="swatch run{index % COLORS}"></i>'


def _text(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else escape(str(value))


# Colors that also differ for most color-blind people (Okabe and Ito 2008), a little darker on a light page.
_STYLE = """
.run0 { --line: #0072b2; } .run1 { --line: #d55e00; } .run2 { --line: #009e73; } .run3 { --line: #c45d9a; }
.run4 { --line: #b58900; } .run5 { --line: #4ba3d4; } .run6 { --line: #6b6b6b; } .run7 { --line: #7b4fb5; }
@media (prefers-color-scheme: dark) {
  .run0 { --line: #4aa3df; } .run1 { --line: #f08a4b; } .run2 { --line: #35c79c; } .run3 { --line: #e48fc0; }
  .run4 { --line: #e3bd4f; } .run5 { --line: #8fd0f5; } .run6 { --line: #b4b2ab; } .run7 { --line: #b596e6; }
}
.swatch {
  display: inline-block; width: .8em; height: .8em; margin-right: .45em; border-radius: 3px; background: var(--line);
}
.legend {
  position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: .5rem 0;
  background: var(--page); border-bottom: 1px solid var(--edge); font-size: .9rem;
}
svg .end { r: 4.5px; }
svg g:hover .line { stroke-width: 3.5; }
section > h3 { margin: 1.4rem 0 .5rem; }
.settings td { white-space: normal; overflow-wrap: anywhere; }
.settings th:first-child { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .82rem; }
"""
