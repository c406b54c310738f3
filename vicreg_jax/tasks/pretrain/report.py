"""`report.html` of a pretraining run: accuracies, training curves, collapse diagnostics, views and neighbors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vicreg_jax.report.accuracies import accuracy_table, facts
from vicreg_jax.report.chart import line_chart
from vicreg_jax.report.curves import all_captions, chart_grid, charts, figure, metric_figures
from vicreg_jax.report.datasets import dataset_table
from vicreg_jax.report.grids import NeighborGrid, ViewGrid
from vicreg_jax.report.label_free import label_free_facts
from vicreg_jax.report.page import render_page, write_page
from vicreg_jax.report.pictures import neighbor_pictures, view_pictures

_FACTS = {
    "steps": "Steps",
    "epochs": "Epochs",
    "seconds": "Seconds",
    "images_per_second": "Images per second",
    "loss": "Final loss",
    "devices": "Devices",
}
_BASELINES = {
    "raw_pixels": "raw pixels",
    "random_init": "random initialization",
    "given_weights": "the weights before training",
}
_TRAINING_CHARTS = {
    "loss": ("Loss", "Weighted sum of the terms."),
    "invariance": (
        "Invariance",
        "Distance between the embeddings of two views of an image, unweighted. SimSiam: their negative cosine "
        "similarity, at best -1.",
    ),
    "variance": (
        "Variance",
        "Hinge on the standard deviation of each embedding dimension, unweighted. 0: at or above the target; 1: "
        "complete collapse.",
    ),
    "covariance": (
        "Covariance",
        "Redundancy between embedding dimensions, unweighted. A batch smaller than the embedding sets a floor, and it "
        "may rise while the features improve. Near 0 together with a standard deviation near 0, it means collapse.",
    ),
    "on_diagonal": ("On-diagonal", "How far each dimension's correlation between the two views is from 1, unweighted."),
    "off_diagonal": ("Off-diagonal", "Redundancy between embedding dimensions, unweighted."),
    "probe_accuracy": (
        "Online probe accuracy",
        "Linear classifier trained alongside the encoder, on augmented training images.",
    ),
    "knn_accuracy": ("kNN accuracy", "On the test split, during training."),
    "learning_rate": ("Learning rate", "Warm-up, then decay."),
    "gradient_norm": ("Gradient norm", "Over all parameters. Spikes are an early sign of instability."),
    "update_norm": ("Update norm", "Of the parameter update, over all parameters."),
    "images_per_second": ("Images per second", "Over all devices, excluding compilation."),
    "input_wait": ("Waiting for input", "Share of the time that the devices had to wait for images."),
}
_COLLAPSE_CHARTS = {
    "embedding_std": (
        "Embedding std",
        "Standard deviation over the batch, averaged over dimensions. Healthy near the dashed line; near 0, all images "
        "have the same embedding.",
    ),
    "effective_rank": (
        "Effective rank",
        "Number of dimensions that the embeddings use (RankMe). It may start high, as in a random network: where it "
        "settles counts. A low rank means dimensional collapse. It means nothing while the standard deviation is "
        "near 0.",
    ),
}
_NOT_TRAINING = frozenset({"step", "epoch", "seconds", *_COLLAPSE_CHARTS})


@dataclass(frozen=True)
class PretrainReport:
    """Content of the report; None and empty fields are skipped, and the page says so.

    Attributes:
        title: for example 'vicreg on digits'.
        summary: as in `summary.json`.
        config: every field, nested by section.
        metrics: rows of `metrics.jsonl`, by step.
        healthy_std: value of `embedding_std` in a healthy run.
        spectrum: eigenvalues of the covariance of the embeddings, `[min(batch, dim)]`, largest first.
        views: training images and their views in the first step.
        neighbors: test images and their nearest training images.
        class_names: class name by label.
        warnings: sentences that the reader must not miss, such as `collapse_warning`'s.
    """

    title: str
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    healthy_std: float | None = None
    spectrum: np.ndarray | None = None
    views: ViewGrid | None = None
    neighbors: NeighborGrid | None = None
    class_names: Sequence[str] | None = None
    warnings: Sequence[str] = ()


def write_pretrain_report(path: Path, content: PretrainReport) -> None:
    """Write the report atomically."""
    write_page(path, render_pretrain_report(content))


def render_pretrain_report(content: PretrainReport) -> str:
    """Render the report as an HTML document."""
    captions = all_captions(content.metrics, _TRAINING_CHARTS, hidden=_NOT_TRAINING)
    sections = {
        "results": ("Accuracy", accuracy_table(content.summary, _BASELINES)),
        "transfer": ("Other datasets", dataset_table(content.summary.get("transfer", {}))),
        "training": ("Training curves", charts(content.metrics, captions)),
        "embeddings": ("Collapse diagnostics", _collapse_diagnostics(content)),
        "label_free": ("Metrics without labels", label_free_facts(content.summary.get("label_free"))),
        "views": ("Augmented views", view_pictures(content.views)),
        "neighbors": ("Nearest neighbors", neighbor_pictures(content.neighbors, content.class_names)),
    }
    if not content.summary.get("transfer"):
        del sections["transfer"]
    return render_page(
        content.title, facts(content.summary, _FACTS), sections, config=content.config, warnings=content.warnings
    )


def _collapse_diagnostics(content: PretrainReport) -> str:
    """The collapse monitors over time, and the spectrum at the end."""
    if not content.metrics:
        return charts(content.metrics, _COLLAPSE_CHARTS)
    references = {} if content.healthy_std is None else {"embedding_std": content.healthy_std}
    figures = metric_figures(content.metrics, _COLLAPSE_CHARTS, references)
    if content.spectrum is not None:
        figures.append(_spectrum(np.asarray(content.spectrum, np.float64)))
    return chart_grid(figures)


def _spectrum(eigenvalues: np.ndarray) -> str:
    chart = line_chart(
        np.arange(1, len(eigenvalues) + 1).tolist(),
        eigenvalues.tolist(),
        name="Eigenvalue",
        x_label="principal direction",
        logarithmic=True,
    )
    zeros = int(np.sum(eigenvalues <= 0))
    reading = (
        "Variance of the embeddings along each principal direction, at the last step. A gentle slope is healthy; a "
        "sharp drop means dimensional collapse."
    )
    reading += f" Not shown: {zeros} of {len(eigenvalues)} that are zero." if zeros else ""
    return figure("Eigenvalue spectrum", "", chart, reading)
