"""`report.html` of a supervised run: accuracies beside those of the baselines, training curves, views."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicreg_jax.report.accuracies import classifier_table, facts
from vicreg_jax.report.curves import all_captions, charts
from vicreg_jax.report.grids import ViewGrid
from vicreg_jax.report.page import render_page, write_page
from vicreg_jax.report.pictures import view_pictures

_FACTS = {
    "train_labels": "Training images",
    "validation_labels": "Held-out images",
    "steps": "Steps",
    "epochs": "Epochs",
    "seconds": "Seconds",
    "images_per_second": "Images per second",
    "loss": "Final loss",
    "devices": "Devices",
}
_CHARTS = {
    "loss": ("Loss", "Cross-entropy of the minibatch. Linear evaluation: of the learning rate that is best on it."),
    "from_scratch_loss": ("Loss from scratch", "Of the network from random initialization, on the same minibatch."),
    "train_accuracy": ("Training accuracy", "On the random views of the minibatch."),
    "from_scratch_train_accuracy": ("Training accuracy from scratch", "On the same views."),
    "accuracy": ("Accuracy", "On the test split, during training."),
    "from_scratch_accuracy": ("Accuracy from scratch", "On the test split, during training."),
    "validation_accuracy": ("Validation accuracy", "On the held-out images, of the learning rate that is best there."),
    "learning_rate": ("Learning rate", "Of the backbone; linear evaluation: the first one of linear.learning_rates."),
    "head_learning_rate": ("Learning rate of the classifier", ""),
    "gradient_norm": ("Gradient norm", "Over all parameters. Spikes are an early sign of instability."),
    "update_norm": ("Update norm", "Of the parameter update, over all parameters."),
    "images_per_second": ("Images per second", "Over all devices, excluding compilation."),
    "input_wait": ("Waiting for input", "Share of the time that the devices had to wait for images."),
}
_HIDDEN = frozenset({"step", "epoch", "seconds"})


@dataclass(frozen=True)
class SupervisedReport:
    """Content of the report.

    Attributes:
        title: of the page.
        summary: as in `summary.json`.
        config: every field, nested by section.
        metrics: rows of `metrics.jsonl`, by step.
        views: training images and their views.
        warnings: sentences that the reader must not miss.
    """

    title: str
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    views: ViewGrid | None = None
    warnings: Sequence[str] = ()


def write_supervised_report(path: Path, content: SupervisedReport) -> None:
    """Write the report atomically."""
    captions = all_captions(content.metrics, _CHARTS, hidden=_HIDDEN)
    sections = {
        "results": ("Accuracy", classifier_table(content.summary)),
        "training": ("Training curves", charts(content.metrics, captions)),
        "views": ("Augmented views", view_pictures(content.views)),
    }
    page = render_page(
        content.title, facts(content.summary, _FACTS), sections, config=content.config, warnings=content.warnings
    )
    write_page(path, page)
