"""The figures of the experiments, as SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.experiments.tables import MEASURES, Table

mpl.use("svg")
mpl.rcParams |= {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "vicreg_jax",  # equal numbers give equal files
}


def dots(path: Path, table: Table, measures: Sequence[str], *, logarithmic: Sequence[str] = ()) -> None:
    """Plots one panel per measure and one line per row: the mean, and a bar from minimum to maximum over seeds."""
    size = (2.2 + 2.6 * len(measures), 1 + 0.27 * len(table))
    figure, axes = plt.subplots(1, len(measures), figsize=size, sharey=True)
    for axis, measure in zip(axes, measures, strict=True):
        for position, row in enumerate(table.values()):
            if measure in row:
                value = row[measure]
                axis.plot([value["least"], value["most"]], [position, position], color="0.6", linewidth=2)
                axis.plot(value["mean"], position, "o", color="C0", markersize=5)
        axis.set_title(MEASURES[measure][0], fontsize=10)
        axis.grid(axis="x", color="0.9")
        if measure in logarithmic:
            axis.set_xscale("log")
    axes[0].set_yticks(range(len(table)), list(table))
    axes[0].invert_yaxis()
    save(figure, path)


def lines(
    path: Path, series: dict[str, dict[float, dict[str, dict[str, float]]]], measures: Sequence[str], x_label: str
) -> None:
    """Plots one panel per measure and one line per series over a logarithmic x axis, with minimum and maximum."""
    figure, axes = plt.subplots(1, len(measures), figsize=(3.6 * len(measures), 3.2))
    for axis, measure in zip(axes, measures, strict=True):
        for name, points in series.items():
            x = list(points)
            means = [points[each][measure]["mean"] for each in x]
            down = [points[each][measure]["mean"] - points[each][measure]["least"] for each in x]
            up = [points[each][measure]["most"] - points[each][measure]["mean"] for each in x]
            axis.errorbar(x, means, yerr=[down, up], marker="o", markersize=4, capsize=2, label=name)
        axis.set_xscale("log", base=2)
        axis.set_xticks(x, [f"{each:g}" for each in x])
        axis.set_xlabel(x_label)
        axis.set_title(MEASURES[measure][0], fontsize=10)
        axis.grid(color="0.9")
    axes[0].legend(frameon=False, fontsize=9)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Writes a figure and closes it."""
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
