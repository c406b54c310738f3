import dataclasses
import os
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from vicreg_jax.report import (
    NeighborGrid,
    ReportContent,
    ViewGrid,
    render_report,
    write_report,
)
from vicreg_jax.report.chart import line_chart, number
from vicreg_jax.report.pictures import image_element, mosaic_element

VOID = {"meta", "img", "line", "circle", "polyline", "rect", "br"}


class Page(HTMLParser):
    """The page's elements, checked to be properly nested, and its text."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(source)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return "\n".join(self.texts)


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
    return ReportContent(
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
    page = Page(render_report(content))
    assert {s["id"] for s in page.all("section")} == {
        "results", "training", "embeddings", "views", "neighbors",
    }  # fmt: skip
    assert len(page.all("svg")) == 7 + 3
    assert all(svg["aria-label"] for svg in page.all("svg"))
    images = page.all("img")
    assert len(images) == 3 * 6 + 4 * 6
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in images)
    for piece in ("98.1", "96.4", "97.0", "± 6.0", "raw pixels", "a random network", "550", "1812", "8.125"):
        assert piece in page.text, piece
    assert "config.method.target_std = 1.0" in page.text
    assert page.text.count("✓") == 4 + 5 + 4 + 1  # right neighbors, and the legend
    assert page.text.count("✗") == 1 + 1 + 5 + 1
    assert "4 of 64 are zero" in page.text
    assert not page.all("script")
    assert "http" not in render_report(content)


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
    page = Page(render_report(content))
    assert not page.all("script")
    # In this order: title and heading, warning, devices, two rows of the table and its sentence, a chart's
    # title, four test images with five neighbors each, the config's field and value.
    assert page.text.count(evil) == 2 + 1 + 1 + 3 + 1 + 4 * 6 + 2


def test_labels_pictures_and_metrics_may_be_missing(content):
    bare = ReportContent(
        "VICReg on my images", {"method": "vicreg", "steps": 0, "linear_accuracy": None}, {"seed": 1}, []
    )
    page = Page(render_report(bare))
    assert "no labels" in page.text
    assert "Nothing was logged" in page.text
    assert page.text.count("No pictures were kept") == 2
    unlabeled = dataclasses.replace(content.neighbors, query_labels=None, neighbor_labels=None)
    page = Page(render_report(dataclasses.replace(content, neighbors=unlabeled, class_names=None)))
    assert page.text.count("✓") == 1
    assert len(page.all("img")) == 3 * 6 + 4 * 6


def test_healthy_standard_deviation_is_drawn_where_it_is_known(content):
    drawn, unknown = (render_report(dataclasses.replace(content, healthy_std=value)) for value in (1.0, None))
    assert (drawn.count('class="reference"'), unknown.count('class="reference"')) == (1, 0)


def test_warnings_come_first(content):
    warned = dataclasses.replace(content, warnings=["the embeddings have collapsed"])
    text = Page(render_report(warned)).text
    assert text.index("the embeddings have collapsed") < text.index("What it learned")


def test_the_file_is_written_whole_and_is_small(content, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("an older report")
    write_report(path, content)
    assert path.read_text(encoding="utf-8") == render_report(content)
    assert os.listdir(tmp_path) == ["report.html"]
    rng = np.random.default_rng(0)
    photographs = rng.integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    heavy = dataclasses.replace(content, metrics=content.metrics * 100)
    heavy = dataclasses.replace(heavy, views=ViewGrid(photographs, [photographs, photographs]))
    assert len(render_report(heavy)) < 2_000_000


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_any_channels(channels):
    import base64
    import io

    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (8, 6, channels), dtype=np.uint8)
    (attributes,) = Page(image_element(image, "a <picture>")).all("img")
    assert attributes["alt"] == "a <picture>"
    decoded = Image.open(io.BytesIO(base64.b64decode(attributes["src"].split(",")[1])))
    expected = image[..., :3] if channels >= 3 else image[..., 0]
    np.testing.assert_array_equal(np.asarray(decoded), expected)


def test_a_mosaic_of_tiles():
    import base64
    import io

    from PIL import Image

    tiles = np.random.default_rng(0).integers(0, 256, (5, 3, 2, 4), dtype=np.uint8)
    (attributes,) = Page(mosaic_element(tiles, "a <mosaic>", columns=3, side=10)).all("img")
    assert attributes["alt"] == "a <mosaic>"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(attributes["src"].split(",")[1]))))
    # Each pixel is a square of 3, for a side near 10; tiles are 4 pixels apart, and what is between them transparent.
    assert (attributes["height"], attributes["width"]) == ("22", "26")
    assert picture.shape == (9 + 4 + 9, 6 + 4 + 6 + 4 + 6, 4)
    for index, tile in enumerate(tiles):
        top, left = index // 3 * 13, index % 3 * 10
        np.testing.assert_array_equal(picture[top : top + 9, left : left + 6], tile.repeat(3, 0).repeat(3, 1))
    assert not picture[9:13].any()
    assert not picture[:, 6:10].any()
    # One tile, larger than asked for, is itself.
    (attributes,) = Page(mosaic_element(tiles[:1], "one", columns=3, side=1)).all("img")
    assert (attributes["height"], attributes["width"]) == ("3", "2")


def test_charts_of_odd_values():
    assert "No values" in line_chart([], [], name="a", x_label="x")
    assert "No values" in line_chart([1.0], [float("nan")], name="a", x_label="x")
    assert "No values" in line_chart([1.0, 2.0], [0.0, 0.0], name="a", x_label="x", logarithmic=True)
    for y in ([5.0], [5.0, 5.0], [0.0, 0.0], [-1e-9, 1e9], [float("inf"), 1.0], [1e-7, 2e-7]):
        chart = line_chart(list(range(len(y))), y, name="a", x_label="x")
        assert "nan" not in chart
        assert "polyline" in chart
    assert "nan" not in line_chart([1, 2], [1e-12, 1e3], name="a", x_label="x", logarithmic=True)
    assert line_chart(range(5000), range(5000), name="a", x_label="x").count("<title>") == 200


def test_a_charts_line_is_where_its_values_are():
    chart = line_chart([0, 1, 2], [0.0, 10.0, 5.0], name="a", x_label="x")
    (line,) = Page(chart).all("polyline")
    points = np.array([pair.split(",") for pair in line["points"].split()], float)
    np.testing.assert_allclose((points[:, 0] - points[0, 0]) / (points[2, 0] - points[0, 0]), [0, 0.5, 1])
    np.testing.assert_allclose((points[:, 1] - points[0, 1]) / (points[1, 1] - points[0, 1]), [0, 1, 0.5])
    assert points[1, 1] < points[0, 1]  # up is up


def test_numbers():
    assert [number(v) for v in (0, 3, 0.98765, 1234.5, 2e-7)] == ["0", "3", "0.9877", "1234", "2e-07"]


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome to open the page")
def test_a_browser_shows_it(content, tmp_path):
    from PIL import Image

    page = tmp_path / "report.html"
    write_report(page, content)

    def browse(*arguments):
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,2600", *arguments]
        return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=60)

    browse(f"--screenshot={tmp_path / 'page.png'}")
    picture = np.asarray(Image.open(tmp_path / "page.png").convert("L"), float)
    # Something is drawn in every fifth of the page.
    assert all(part.std() > 4 for part in np.array_split(picture, 5))
    dom = browse("--dump-dom").stdout
    for piece in ('id="results"', 'id="neighbors"', "<polyline", "A linear classifier", "data:image/png"):
        assert piece in dom
