import dataclasses
import os
import shutil
import subprocess

import numpy as np
import pytest

from tests.report.page import Page
from vicreg_jax.report import NeighborGrid, ViewGrid
from vicreg_jax.tasks.pretrain.report import PretrainReport, render_pretrain_report, write_pretrain_report


def accuracies(linear):
    return {
        "knn_accuracy": linear + 0.01,
        "linear_accuracy": linear,
        "few_label_accuracy": {"1": linear - 0.3, "5": linear - 0.1},
        "few_label_std": {"1": 0.06, "5": 0.02},
    }


@pytest.fixture
def content():
    rng = np.random.default_rng(0)

    def pictures(*shape):
        return rng.integers(0, 256, (*shape, 8, 8, 1), dtype=np.uint8)

    progress = np.linspace(0.02, 1.0, 50)
    return PretrainReport(
        title="VICReg on digits",
        summary={
            "method": "vicreg",
            "dataset": "digits",
            "steps": 550,
            "epochs": 50,
            "seconds": 63.2,
            "images_per_second": 1812.4,
            "loss": 8.125,
            **accuracies(0.981),
            "baselines": {"raw_pixels": accuracies(0.964), "random_init": accuracies(0.97)},
        },
        config={"seed": 0, "method": {"name": "vicreg", "target_std": 1.0}, "optim": {"base_lr": 0.3}},
        metrics=[
            {
                "step": int(550 * t),
                "epoch": float(50 * t),
                "loss": float(30 - 20 * t),
                "invariance": 0.3,
                "variance": float(1 - t),
                "covariance": float(5 * t),
                "learning_rate": float(0.3 * (1 - t)),
                "embedding_std": float(t),
                "effective_rank": float(100 * t),
                "probe_accuracy": None if t < 0.5 else float(t),
                "images_per_second": 1800.0,
            }
            for t in progress
        ],
        healthy_std=1.0,
        spectrum=np.r_[np.exp(-np.arange(60) / 9.0), np.zeros(4)],
        views=ViewGrid(pictures(6), [pictures(6), pictures(6)]),
        neighbors=NeighborGrid(
            pictures(4),
            pictures(4, 5),
            np.array([0, 1, 2, 1]),
            np.array([[0, 0, 1, 0, 0], [1, 1, 1, 1, 1], [2, 0, 2, 2, 2], [0, 0, 0, 0, 0]]),
            np.full((4, 5), 0.97),
        ),
        class_names=["zero", "one", "two"],
    )


def test_the_page_holds_every_piece(content):
    page = Page(render_pretrain_report(content))
    assert {s["id"] for s in page.all("section")} == {
        "results", "training", "embeddings", "label_free", "views", "neighbors",
    }  # fmt: skip
    assert len(page.all("svg")) == 7 + 3
    assert all(svg["aria-label"] for svg in page.all("svg"))
    images = page.all("img")
    assert len(images) == 3 * 6 + 4 * 6
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in images)
    for piece in ("98.1", "96.4", "97.0", "± 6.0", "raw pixels", "random initialization", "550", "1812", "8.125"):
        assert piece in page.text, piece
    assert "config.method.target_std = 1.0" in page.text
    assert page.text.count("✓") == 4 + 5 + 4 + 1  # right neighbors, and the legend
    assert page.text.count("✗") == 1 + 1 + 5 + 1
    assert "4 of 64 that are zero" in page.text
    assert not page.all("script")
    assert "http" not in render_pretrain_report(content)


def test_every_text_is_escaped(content):
    evil = '<script>alert("&")</script>'
    content = dataclasses.replace(
        content,
        title=evil,
        summary=content.summary | {"method": evil, "devices": evil, "baselines": {f"no {evil}": accuracies(0.9)}},
        config={evil: {"name": evil}},
        metrics=[{"step": 1, evil: 2.0}],
        class_names=[evil] * 3,
        warnings=[evil],
    )
    page = Page(render_pretrain_report(content))
    assert not page.all("script")
    # In this order: title and heading, warning, devices, two rows of the table and the sentence above it, a
    # chart's title, four test images with five neighbors each, the config's field and value.
    assert page.text.count(evil) == 2 + 1 + 1 + 3 + 1 + 4 * 6 + 2


def test_labels_pictures_and_metrics_may_be_missing(content):
    bare = PretrainReport(
        "VICReg on my images", {"method": "vicreg", "steps": 0, "linear_accuracy": None}, {"seed": 1}, []
    )
    page = Page(render_pretrain_report(bare))
    assert "they need labels in both splits" in page.text
    assert "No metrics were logged" in page.text
    assert page.text.count("No images to show") == 2
    unlabeled = dataclasses.replace(content.neighbors, query_labels=None, neighbor_labels=None)
    page = Page(render_pretrain_report(dataclasses.replace(content, neighbors=unlabeled, class_names=None)))
    assert page.text.count("✓") == 0
    assert len(page.all("img")) == 3 * 6 + 4 * 6


def test_healthy_standard_deviation_is_drawn_where_it_is_known(content):
    drawn, unknown = (render_pretrain_report(dataclasses.replace(content, healthy_std=value)) for value in (1.0, None))
    assert (drawn.count('class="reference"'), unknown.count('class="reference"')) == (1, 0)


def test_warnings_come_first(content):
    warned = dataclasses.replace(content, warnings=["the embeddings have collapsed"])
    text = Page(render_pretrain_report(warned)).text
    assert text.index("the embeddings have collapsed") < text.index("Linear accuracy")


def test_the_file_is_written_whole_and_is_small(content, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("an older report")
    write_pretrain_report(path, content)
    assert path.read_text(encoding="utf-8") == render_pretrain_report(content)
    assert os.listdir(tmp_path) == ["report.html"]
    rng = np.random.default_rng(0)
    photographs = rng.integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    heavy = dataclasses.replace(content, metrics=content.metrics * 100)
    heavy = dataclasses.replace(heavy, views=ViewGrid(photographs, [photographs, photographs]))
    assert len(render_pretrain_report(heavy)) < 2_000_000


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome to open the page")
def test_a_browser_shows_it(content, tmp_path):
    from PIL import Image

    page = tmp_path / "report.html"
    write_pretrain_report(page, content)

    def browse(*arguments):
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--disable-{x}" for x in ("quic", "background-networking", "component-update", "sync")]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,2600", *arguments]
        return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=60)

    browse(f"--screenshot={tmp_path / 'page.png'}")
    picture = np.asarray(Image.open(tmp_path / "page.png").convert("L"), float)
    # Something is drawn in every fifth of the page.
    assert all(part.std() > 4 for part in np.array_split(picture, 5))
    dom = browse("--dump-dom").stdout
    for piece in ('id="results"', 'id="neighbors"', "<polyline", "Linear accuracy", "data:image/png"):
        assert piece in dom
