"""The metrics over time, each in a chart of its own with a word on how to read it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from vicreg_jax.report.chart import line_chart, number
from vicreg_jax.report.content import ReportContent

# What is drawn by name, in this order: its title, and how to read it.
_TRAINING_CHARTS = {
    "loss": ("Loss", "The weighted sum of the terms."),
    "invariance": (
        "Invariance",
        "How far apart the two views of an image are, unweighted; SimSiam's is a negative cosine, -1 at best.",
    ),
    "variance": (
        "Variance",
        "How far the embeddings' spread is below its target, unweighted. 0 is full spread; 1 is collapse.",
    ),
    "covariance": (
        "Covariance",
        "How much the dimensions repeat each other, unweighted. A batch smaller than the embedding puts a "
        "floor under it, and it may rise while features get better; near 0 together with no spread is "
        "collapse.",
    ),
    "on_diagonal": ("On the diagonal", "How far the two views of an image are from the same, by dimension."),
    "off_diagonal": ("Off the diagonal", "How much the dimensions repeat each other, unweighted."),
    "probe_accuracy": (
        "Online probe",
        "Accuracy of a linear classifier trained beside the network, on augmented training images.",
    ),
    "knn_accuracy": ("kNN accuracy", "On the test split, while training."),
    "learning_rate": ("Learning rate", "Warm-up, then decay."),
    "gradient_norm": ("Gradient norm", "Of all parameters together. Spikes foretell trouble."),
    "images_per_second": ("Images per second", "Over all devices, compilation aside."),
}
_EMBEDDING_CHARTS = {
    "embedding_std": (
        "Standard deviation",
        "Over the batch, averaged over dimensions. Near the dashed line is healthy; near 0, all images "
        "look the same to the network.",
    ),
    "effective_rank": (
        "Effective rank",
        "How many dimensions the embeddings really use. A random network's may be many: where it settles "
        "is what counts. A few is collapse, and so is any number where the standard deviation is near 0.",
    ),
}
_NOT_DRAWN = {"step", "epoch", "seconds", *_EMBEDDING_CHARTS}


def training_curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    """A chart for every number that was logged."""
    others = {name for row in metrics for name, value in row.items() if _is_number(value)}
    titles = dict(_TRAINING_CHARTS)
    titles |= {name: (name.replace("_", " ").capitalize(), "") for name in sorted(others - _NOT_DRAWN - {*titles})}
    return charts(metrics, {name: title for name, title in titles.items() if name in others})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def charts(
    metrics: Sequence[Mapping[str, Any]],
    titles: Mapping[str, tuple[str, str]],
    references: Mapping[str, float] | None = None,
) -> str:
    """A chart for each of the `titles`: by name, what it is called and how to read it."""
    if not metrics:
        return '<p class="muted">Nothing was logged.</p>'
    x_label = "epoch" if all("epoch" in row for row in metrics) else "step"
    figures = []
    for name, (title, reading) in titles.items():
        rows = [row for row in metrics if _is_number(row.get(name))]
        x, y = [row[x_label] for row in rows], [row[name] for row in rows]
        chart = line_chart(x, y, name=title, x_label=x_label, reference=(references or {}).get(name))
        figures.append(figure(title, number(y[-1]) if y else "", chart, reading))
    return f'<div class="charts">{"".join(figures)}</div>'


def figure(title: str, last: str, chart: str, reading: str) -> str:
    """A chart on a card: its title, the last of its values, and below it how to read it."""
    caption = f"<figcaption>{escape(reading)}</figcaption>" if reading else ""
    header = f"<header><h3>{escape(title)}</h3><span>{escape(last)}</span></header>"
    return f"<figure>{header}{chart}{caption}</figure>"


def embedding_curves(content: ReportContent) -> str:
    """The collapse monitors over time, and the spectrum at the end."""
    references = {} if content.healthy_std is None else {"embedding_std": content.healthy_std}
    curves = charts(content.metrics, _EMBEDDING_CHARTS, references)
    if content.spectrum is None or not content.metrics:
        return curves
    eigenvalues = np.asarray(content.spectrum, np.float64)
    chart = line_chart(
        np.arange(1, len(eigenvalues) + 1).tolist(),
        eigenvalues.tolist(),
        name="Eigenvalue",
        x_label="direction",
        logarithmic=True,
    )
    zeros = int(np.sum(eigenvalues <= 0))
    reading = "Variance along each principal direction, at the end. A gentle slope is healthy; a cliff is collapse."
    reading += f" {zeros} of {len(eigenvalues)} are zero and not drawn." if zeros else ""
    return curves.removesuffix("</div>") + figure("Eigenvalue spectrum", "", chart, reading) + "</div>"
