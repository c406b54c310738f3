"""`report.html` of an autoencoder: how its loss fell, by epochs and by seconds, and what it makes of images."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vicreg_jax.locoprop.survey import Layer
from vicreg_jax.report.accuracies import facts, results
from vicreg_jax.report.chart import line_chart, number
from vicreg_jax.report.content import NeighborGrid
from vicreg_jax.report.curves import charts, figure
from vicreg_jax.report.page import render_page, write_page
from vicreg_jax.report.pictures import image_element, neighbor_pictures
from vicreg_jax.tasks.locoprop.assessment import Reconstructions

_FACTS = {
    "steps": "Steps",
    "epochs": "Epochs",
    "seconds": "Seconds",
    "images_per_second": "Images per second",
    "devices": "Devices",
    "loss": "Training loss",
    "test_loss": "Test loss",
}
_CHARTS = {
    "loss": ("Loss of minibatches", "Before each step, of the images it was made with."),
    "learning_rate": ("Learning rate", "At the first local step of a minibatch; of backpropagation, its only one."),
    "images_per_second": ("Images per second", "Over all devices, compilation and evaluation aside."),
}
_STYLE = ".pictures th { min-width: 8.5rem; }"


def write_locoprop_report(
    path: Path,
    *,
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    layers: Sequence[Layer],
    reconstructions: Reconstructions,
    neighbors: NeighborGrid,
    class_names: Sequence[str] | None,
) -> None:
    """Writes the page, whole or not at all.

    Args:
      path: of the page.
      summary: as in `summary.json`.
      config: every field, nested by section.
      metrics: the rows of `metrics.jsonl`, by step.
      layers: those with a local loss; none: trained by backpropagation.
      reconstructions, neighbors: pictures.
      class_names: by label.
    """
    sections = {
        "loss": ("What it learned", _losses(summary, config, metrics)),
        "reconstructions": ("What it makes of images", _reconstructions(reconstructions)),
        "results": ("What its code is good for", results(summary)),
        "layers": ("What its layers learned from", _layers(layers)),
        "training": ("Training", charts(metrics, _CHARTS | _norm_charts(metrics))),
        "neighbors": ("Nearest neighbors", neighbor_pictures(neighbors, class_names)),
    }
    title = f"{summary['method']} on {summary['dataset']}"
    write_page(path, render_page(title, facts(summary, _FACTS), sections, config=config, style=_STYLE))


def _losses(summary: Mapping[str, Any], config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    before = summary["baselines"]["random_init"]
    rows = [{"epoch": 0.0, "train_loss": before["loss"], "test_loss": before["test_loss"], "seconds": 0.0}]
    seconds, step = 0.0, 0
    for row in metrics:
        # Without what evaluation and compilation took, which the clock of the run has in it.
        seconds += (row["step"] - step) * config["train"]["batch_size"] / row["images_per_second"]
        step = row["step"]
        if row.get("train_loss") is not None:
            rows.append({**row, "seconds": seconds})
    at_the_end = {"train_loss": summary["loss"], "test_loss": summary["test_loss"]}
    rows.append({"epoch": summary["epochs"], "seconds": seconds, **at_the_end})
    figures = [
        figure(
            f"{title}, by {label}",
            number(rows[-1][name]),
            line_chart([row[x] for row in rows], [row[name] for row in rows], name=title, x_label=label),
            reading,
        )
        for name, x, label, title, reading in (
            ("train_loss", "epoch", "epochs", "Training loss", "On all training images."),
            ("train_loss", "seconds", "seconds", "Training loss", "Time in training steps alone."),
            ("test_loss", "epoch", "epochs", "Test loss", "On all test images."),
        )
    ]
    text = (
        "The loss is the cross-entropy between the pixels of an image and those of its reconstruction, summed over the "
        f"pixels: {number(summary['loss'])} on the training images and {number(summary['test_loss'])} on the test "
        f"images, from {number(before['loss'])} before training. It cannot reach 0: a gray pixel costs even where it "
        "is reconstructed exactly."
    )
    return f'<p>{text}</p><div class="charts">{"".join(figures)}</div>'


def _reconstructions(pictures: Reconstructions) -> str:
    rows = "".join(
        f'<tr><th scope="row">{head}</th>'
        + "".join(f"<td>{image_element(image, f'{head}, number {i + 1}')}</td>" for i, image in enumerate(images))
        + "</tr>"
        for head, images in zip(("Test image", "Before training", "Reconstruction"), pictures, strict=True)
    )
    return (
        '<p class="muted">Test images, and what the network makes of them from its code alone.</p>'
        f'<div class="scroll"><table class="pictures"><tbody>{rows}</tbody></table></div>'
    )


def _layers(layers: Sequence[Layer]) -> str:
    if not layers:
        return '<p class="muted">All layers were trained by backpropagation.</p>'
    rows = []
    for layer in layers:
        flops = "-" if layer.flops is None else f"{number(layer.flops.gram / 1e9)} / {number(layer.flops.plain / 1e9)}"
        form = {"gram": "from the Gram matrix", "plain": "through the batch"}[layer.form]
        shape = " x ".join(map(str, layer.pre_activation.shape))
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (shape, layer.transfer, form, flops))
        rows.append(f'<tr><th scope="row">{escape(layer.name)}</th>{cells}</tr>')
    heads = ("Layer", "Pre-activations", "Transfer function", "Local steps", "GFLOP, Gram / batch")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        '<p class="muted">The transfer function that a layer\'s local loss matches; identity is the squared loss. '
        "Where it is squared its local steps need the batch only once, as the Gram matrix of its inputs, which is done "
        "where it takes fewer operations.</p>"
        f'<div class="scroll"><table class="results"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _norm_charts(metrics: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    titles = {}
    for name in metrics[0]:
        norm, _, layer = name.partition("/")
        if norm in ("gradient_norm", "update_norm"):
            titles[name] = (norm.replace("_", " ").capitalize() + (f" of {layer}" if layer else ""), "")
    return titles
