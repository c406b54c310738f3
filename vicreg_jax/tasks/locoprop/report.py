"""`report.html` of an autoencoder: its loss by epoch and by time, reconstructions, and accuracies of its code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vicreg_jax.locoprop.survey import Layer
from vicreg_jax.report.accuracies import accuracy_table, facts
from vicreg_jax.report.chart import line_chart, number
from vicreg_jax.report.curves import chart_grid, charts, figure
from vicreg_jax.report.grids import NeighborGrid
from vicreg_jax.report.page import render_page, write_page
from vicreg_jax.report.pictures import image_rows, neighbor_pictures

_FACTS = {
    "steps": "Steps",
    "epochs": "Epochs",
    "seconds": "Seconds",
    "images_per_second": "Images per second",
    "devices": "Devices",
    "loss": "Training loss",
    "test_loss": "Test loss",
}
_BASELINES = {"raw_pixels": "raw pixels", "random_init": "random initialization"}
_CHARTS = {
    "loss": ("Minibatch loss", "Of each minibatch, before its step."),
    "learning_rate": ("Learning rate", "Of the first local step on a minibatch; with backpropagation, of the step."),
    "input_wait": ("Waiting for input", "Share of the time that the devices had to wait for images."),
    "images_per_second": ("Images per second", "Over all devices, excluding compilation and evaluation."),
}
_STYLE = ".pictures th { min-width: 8.5rem; }"


class Reconstructions(NamedTuple):
    """Test images and their reconstructions before and after training, each uint8 `[images, height, width, channels]`.

    Attributes:
        originals: the test images.
        before: their reconstructions by the initial network.
        after: their reconstructions by the trained network.
    """

    originals: np.ndarray
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class LocoPropReport:
    """Content of the report.

    Attributes:
        summary: as in `summary.json`.
        config: every field, nested by section.
        metrics: rows of `metrics.jsonl`, by step.
        layers: layers with a local loss; empty with backpropagation.
        reconstructions: test images and their reconstructions.
        neighbors: test images and their nearest training images.
        class_names: class name by label.
    """

    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    layers: Sequence[Layer]
    reconstructions: Reconstructions
    neighbors: NeighborGrid
    class_names: Sequence[str] | None


def write_locoprop_report(path: Path, content: LocoPropReport) -> None:
    """Write the report atomically."""
    summary = content.summary
    sections = {
        "loss": ("Reconstruction loss", _losses(content)),
        "reconstructions": ("Reconstructions", _reconstructions(content.reconstructions)),
        "results": ("Accuracy of the code", accuracy_table(summary, _BASELINES)),
        "layers": ("Local losses", _layers(content.layers)),
        "training": ("Training curves", charts(content.metrics, _CHARTS | _norm_captions(content.metrics))),
        "neighbors": ("Nearest neighbors", neighbor_pictures(content.neighbors, content.class_names)),
    }
    title = f"{summary['method']} on {summary['dataset']}"
    warnings = summary.get("data_warnings", ())
    page = render_page(title, facts(summary, _FACTS), sections, config=content.config, warnings=warnings, style=_STYLE)
    write_page(path, page)


def _losses(content: LocoPropReport) -> str:
    summary = content.summary
    before = summary["baselines"]["random_init"]
    rows = [{"epoch": 0.0, "train_loss": before["loss"], "test_loss": before["test_loss"], "seconds": 0.0}]
    seconds, step = 0.0, 0
    for row in content.metrics:
        # The run's clock includes evaluation and compilation; this one counts the training steps only.
        seconds += (row["step"] - step) * content.config["train"]["batch_size"] / row["images_per_second"]
        step = row["step"]
        if row.get("train_loss") is not None:
            rows.append({**row, "seconds": seconds})
    at_the_end = {"train_loss": summary["loss"], "test_loss": summary["test_loss"]}
    rows.append({"epoch": summary["epochs"], "seconds": seconds, **at_the_end})
    figures = [
        figure(
            title,
            number(rows[-1][name]),
            line_chart([row[x] for row in rows], [row[name] for row in rows], name=title, x_label=x),
            reading,
        )
        for name, x, title, reading in (
            ("train_loss", "epoch", "Training loss by epoch", "On all training images."),
            ("train_loss", "seconds", "Training loss by time", "Time of the training steps only."),
            ("test_loss", "epoch", "Test loss by epoch", "On all test images."),
        )
    ]
    text = (
        "The loss is the cross-entropy between an image and its reconstruction, summed over pixels: "
        f"{number(summary['loss'])} on the training images and {number(summary['test_loss'])} on the test images, "
        f"from {number(before['loss'])} before training. It cannot reach 0: a gray pixel has positive entropy."
    )
    return f"<p>{text}</p>{chart_grid(figures)}"


def _reconstructions(images: Reconstructions) -> str:
    rows = {
        "Test image": list(images.originals),
        "Before training": list(images.before),
        "Reconstruction": list(images.after),
    }
    text = "Test images and their reconstructions from the code, by the initial and by the trained network."
    return f'<p class="muted">{text}</p>{image_rows(rows)}'


def _layers(layers: Sequence[Layer]) -> str:
    if not layers:
        return '<p class="muted">None: all layers were trained by backpropagation.</p>'
    rows = []
    for layer in layers:
        flops = "-" if layer.flops is None else f"{number(layer.flops.gram / 1e9)} / {number(layer.flops.plain / 1e9)}"
        form = {"gram": "Gram matrix", "plain": "batch"}[layer.form]
        shape = " x ".join(map(str, layer.pre_activation.shape))
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (shape, layer.transfer, form, flops))
        rows.append(f'<tr><th scope="row">{escape(layer.name)}</th>{cells}</tr>')
    heads = ("Layer", "Pre-activations", "Transfer function", "Local steps on", "GFLOP, Gram / batch")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        '<p class="muted">Each layer minimizes its own matching loss, given by the transfer function; identity is '
        "the squared loss. With the squared loss, local steps can use the Gram matrix of the layer's inputs instead of "
        "the batch, and do where that takes fewer operations.</p>"
        f'<div class="scroll"><table class="results"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _norm_captions(metrics: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    captions = {}
    for name in metrics[0]:
        norm, _, layer = name.partition("/")
        if norm in ("gradient_norm", "update_norm"):
            captions[name] = (norm.replace("_", " ").capitalize() + (f" of {layer}" if layer else ""), "")
    return captions
