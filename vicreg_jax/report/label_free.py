"""Metrics without labels, and how to read them."""

from collections.abc import Mapping
from html import escape
from typing import Any

from vicreg_jax.report.chart import number
from vicreg_jax.report.curves import chart_grid, figure

LABEL_FREE = {
    "rankme": ("RankMe", "Dimensions that the images use: the entropy of the singular values, not centered."),
    "lidar": (
        "LiDAR",
        "Dimensions that tell images apart, measured by what random views of one image differ in. 1: the network "
        "ignores the image.",
    ),
    "alpha_req": (
        "alpha-ReQ",
        "Exponent of the power law of the eigenvalues. Near 1 is healthy; a larger one means few dimensions.",
    ),
}
"""Title and reading by metric."""


def label_free_facts(metrics: Mapping[str, Any] | None) -> str:
    """Show the metrics of one network, each with its reading; a sentence if there are none.

    Args:
        metrics: as `label_free` of `summary.json`: those of `LABEL_FREE`, None where one is not defined; `layer`,
            `images` and `views`.
    """
    if metrics is None:
        return '<p class="muted">No metrics without labels.</p>'
    values = {name: "-" if metrics[name] is None else number(metrics[name]) for name in LABEL_FREE}
    cards = [figure(title, values[name], "", reading) for name, (title, reading) in LABEL_FREE.items()]
    return (
        f'<p class="muted">Of the {escape(metrics["layer"])} of {metrics["images"]} training images; LiDAR of '
        f"{metrics['views']} random views of each. Compare them between runs on the same images.</p>"
        + chart_grid(cards)
    )
