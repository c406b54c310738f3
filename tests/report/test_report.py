import doctest
import os

import numpy as np
import pytest

from tests.report.page import Page, pixels
from vicreg_jax.report import (
    NeighborGrid,
    ViewGrid,
    accuracy_table,
    all_captions,
    chart,
    charts,
    facts,
    image_element,
    line_chart,
    metric_figures,
    mosaic_element,
    neighbor_pictures,
    number,
    render_page,
    view_pictures,
    write_page,
)

EVIL = '<script>alert("&")</script>'


def test_examples():
    results = doctest.testmod(chart)
    assert results.attempted > 0
    assert results.failed == 0


def test_a_page_has_its_parts_in_order():
    page = Page(
        render_page(
            "A title",
            "<p>Some facts</p>",
            {"first": ("A heading", "<p>Some text</p>"), "second": ("Another heading", "")},
            config={"seed": 0, "optim": {"base_lr": 0.3}},
            warnings=["a warning"],
            style=".own {}",
        )
    )
    assert [section["id"] for section in page.all("section")] == ["first", "second"]
    pieces = ("A title", "a warning", "Some facts", "A heading", "Some text", "Another heading")
    places = [page.text.rindex(piece) for piece in pieces]
    assert places == sorted(places)
    assert page.text.endswith("config.seed = 0\nconfig.optim.base_lr = 0.3\n\n")
    assert ".own {}" in page.source


def test_a_page_escapes_its_texts():
    page = Page(render_page(EVIL, "", {}, config={EVIL: {"name": EVIL}}, warnings=[EVIL]))
    assert not page.all("script")
    assert page.text.count(EVIL) == 2 + 2 + 1  # title and heading, field and value, warning


def test_a_page_is_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_page(path, "an older report")
    assert path.read_text(encoding="utf-8") == "an older report"
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "replace", lambda *_: pytest.fail("disk full"))
        with pytest.raises(pytest.fail.Exception):
            write_page(path, "a newer report")
    assert path.read_text(encoding="utf-8") == "an older report"
    write_page(path, "a newer ±")
    assert path.read_text(encoding="utf-8") == "a newer ±"
    assert os.listdir(tmp_path) == ["report.html"]


def test_facts_have_titles_and_values():
    summary = {"steps": 550, "seconds": 63.25, "loss": None, "devices": EVIL, "method": "vicreg"}
    titles = {"seconds": "Seconds", "steps": "Steps", "loss": "Loss", "epochs": "Epochs", "devices": "Devices"}
    page = Page(facts(summary, titles))
    assert page.texts == ["Seconds", "63.25", "Steps", "550", "Devices", EVIL]


def accuracies(linear):
    return {
        "knn_accuracy": linear + 0.01,
        "linear_accuracy": linear,
        "few_label_accuracy": {"1": linear - 0.3, "5": linear - 0.1},
        "few_label_std": {"1": 0.06, "5": 0.02},
    }


def test_accuracies_are_a_table():
    summary = {"method": "vicreg", **accuracies(0.97)}
    summary["baselines"] = {"pixels": accuracies(0.98), EVIL: accuracies(0.9)}
    source = accuracy_table(summary, {"pixels": "raw pixels", "other": "not there"})
    page = Page(source)
    assert f"Linear accuracy on frozen features: 97.0% (raw pixels 98.0%, {EVIL} 90.0%)." in page.text
    assert "1 label per class" in page.text
    assert "5 labels per class" in page.text
    rows = source.split("<tr")[2:]
    assert [row.count("<td") for row in rows] == [4, 4, 4]
    assert [row.count("class=best") for row in rows] == [0, 4, 0]
    assert "± 6.0" in rows[0]
    assert "not there" not in source
    assert not page.all("script")


def test_accuracies_on_training_images_are_called_so():
    summary = {"method": "vicreg", **accuracies(0.97), "shared_images": 0}
    assert "Accuracy on the test split at" in accuracy_table(summary, {})
    assert "Accuracy on training images at" in accuracy_table(summary | {"shared_images": 3}, {})


def test_accuracies_of_an_unlabeled_dataset():
    assert "they need labels in both splits" in accuracy_table({"method": "vicreg", "linear_accuracy": None}, {})
    alone = accuracy_table({"method": "vicreg", "knn_accuracy": 0.9, "linear_accuracy": 0.8}, {})
    assert "Linear accuracy on frozen features: 80.0%." in alone
    assert "Few-label" not in alone


METRICS = [
    {
        "step": 10 * i,
        "epoch": i / 2,
        "loss": 9.0 - i,
        "probe": None if i < 2 else i / 5,
        EVIL: 2.0,
        "pass": "a",
        "ok": True,
    }
    for i in range(4)
]


def test_every_number_that_was_logged_has_a_caption():
    known = {"probe": ("Probe", "An accuracy."), "loss": ("Loss", ""), "missing": ("Missing", "")}
    captions = all_captions(METRICS, known, hidden=frozenset({"step", "epoch"}))
    assert list(captions) == ["probe", "loss", EVIL]
    page = Page(charts(METRICS, captions))
    assert len(page.all("svg")) == 3
    assert not page.all("script")
    # The last value; by epoch; without the rows in which it is None.
    for piece in ("Probe", "0.6", "An accuracy.", "epoch 1.5: 0.6"):
        assert piece in page.text
    assert "epoch 0.5: " not in page.source.split("<figure>")[1]
    assert "No metrics were logged" in charts([], captions)
    assert "step 30" in charts([{"step": 30, "loss": 1.0}], {"loss": ("Loss", "")})


def test_a_reference_is_drawn_where_it_is_known():
    captions = {"loss": ("Loss", ""), "probe": ("Probe", "")}
    drawn = metric_figures(METRICS, captions, {"probe": 1.0})
    assert [figure.count('class="reference"') for figure in drawn] == [0, 1]


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 8, 8, 1), dtype=np.uint8)


def test_views_stand_below_their_image():
    grid = ViewGrid(images(3), [images(3), images(3), images(3)[:, ::2, ::2]])
    page = Page(view_pictures(grid))
    assert [image["alt"] for image in page.all("img")][::3] == [
        f"{x}, number 1" for x in ("Image", "View 1", "View 2", "View 3")
    ]
    np.testing.assert_array_equal(page.image("View 2, number 3"), grid.views[1][2, ..., 0])
    assert "No images" in view_pictures(None)


def test_neighbors_are_marked_by_their_class():
    queries, found = np.array([0, 1]), np.array([[0, 1, 0], [2, 2, 1]])
    grid = NeighborGrid(images(2), images(2, 3), queries, found, np.full((2, 3), 0.97))
    page = Page(neighbor_pictures(grid, ["zero", EVIL]))
    assert page.text.count("✓") == 2 + 1 + 1  # the last is the legend's
    assert page.text.count("✗") == 1 + 2 + 1
    assert page.text.count("0.97") == 6
    assert page.text.count(EVIL) == 3
    assert page.text.count("✗ 2") == 2  # a class without a name
    assert not page.all("script")
    unlabeled = NeighborGrid(images(2), images(2, 3))
    page = Page(neighbor_pictures(unlabeled, None))
    assert len(page.all("img")) == 2 * 4
    assert not any(mark in page.text for mark in "✓✗")
    assert "No images" in neighbor_pictures(None, None)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_channels(channels):
    image = np.random.default_rng(0).integers(0, 256, (8, 6, channels), dtype=np.uint8)
    (attributes,) = Page(image_element(image, "an <image>")).all("img")
    assert attributes["alt"] == "an <image>"
    expected = image[..., :3] if channels >= 3 else image[..., 0]
    np.testing.assert_array_equal(pixels(attributes), expected)


def test_a_mosaic_of_tiles():
    tiles = np.random.default_rng(0).integers(0, 256, (5, 3, 2, 4), dtype=np.uint8)
    (attributes,) = Page(mosaic_element(tiles, "a <mosaic>", columns=3, side=10)).all("img")
    assert attributes["alt"] == "a <mosaic>"
    picture = pixels(attributes)
    # Each pixel is a 3 x 3 square, for a side near 10; tiles are 4 transparent pixels apart.
    assert (attributes["height"], attributes["width"]) == ("22", "26")
    assert picture.shape == (9 + 4 + 9, 6 + 4 + 6 + 4 + 6, 4)
    for index, tile in enumerate(tiles):
        top, left = index // 3 * 13, index % 3 * 10
        np.testing.assert_array_equal(picture[top : top + 9, left : left + 6], tile.repeat(3, 0).repeat(3, 1))
    assert not picture[9:13].any()
    assert not picture[:, 6:10].any()
    # A tile larger than `side` keeps its size.
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
