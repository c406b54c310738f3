import re

import pytest
from scipy import stats

from tests.report.page import Page
from vicreg_jax.report import RunResults, dataset_table, label_free_facts, overlay_chart, render_comparison

EVIL = '<script>alert("&")</script>'


def accuracies(linear, **entries):
    few = {"few_label_accuracy": {"1": linear - 0.3}, "few_label_std": {"1": 0.06}}
    return {"knn_accuracy": linear + 0.01, "linear_accuracy": linear, **few, **entries}


def run(name, linear, rank, method="vicreg", random_init=0.5):
    baselines = {"raw_pixels": accuracies(0.6), "random_init": accuracies(random_init)}
    summary = accuracies(linear, baselines=baselines, dataset="digits", loss=1 - linear)
    summary["label_free"] = {"rankme": rank, "lidar": 5.5, "alpha_req": None, "layer": "embeddings"}
    metrics = [{"step": n, "epoch": n / 2, "loss": 9.0 - n, "embedding_std": n / 5, "term": None} for n in range(4)]
    return RunResults(name, summary, metrics, {"method.name": method, "seed": 0, "optim.base_lr": linear})


@pytest.fixture
def runs():
    return [run("a", 0.7, 20.0), run("b", 0.8, 40.0), run("c", 0.9, 30.0), run("d", 0.95, 50.0, random_init=0.55)]


def sections(source):
    """The text of each section below its heading, by its id."""
    found = re.findall(r'<section id="(\w+)"><h2>.*?</h2>(.*?)</section>', source, flags=re.DOTALL)
    return {name: " ".join(Page(content).text.split()) for name, content in found}


def test_runs_stand_side_by_side(runs):
    source = render_comparison(runs)
    page, text = Page(source), sections(source)
    assert list(text) == ["runs", "accuracy", "label_free", "curves", "loss_0", "settings"]
    assert not page.all("script")
    assert text["accuracy"].count("random") == 4 * 3  # below each accuracy, for they differ
    assert text["accuracy"].count("pixels") == 1
    assert text["accuracy"].endswith("raw pixels 61.0 60.0 30.0")
    assert source.count("class=best") == 3
    assert "95.0" in text["accuracy"]
    x, y = [20.0, 40.0, 30.0, 50.0], [0.7, 0.8, 0.9, 0.95]
    spearman, kendall = stats.spearmanr(x, y).statistic, stats.kendalltau(x, y).statistic
    captions = re.findall(r"<h3>([\w -]+)</h3>.*?<figcaption>(.*?)</figcaption>", source.split('id="curves"')[0])
    assert captions == [
        ("RankMe", f"4 runs: Spearman {spearman:.2f}, Kendall {kendall:.2f}."),
        ("LiDAR", "4 runs, no ranking: all are equal."),
        ("Final loss", "4 runs: Spearman -1.00, Kendall -1.00."),
    ]
    assert "Embedding std" in text["curves"]
    assert "Loss" in text["loss_0"]
    assert "Term" not in text["loss_0"]  # never logged
    assert text["settings"] == "Field a b c d optim.base_lr 0.7 0.8 0.9 0.95"


def test_losses_are_compared_within_a_method_only(runs):
    source = render_comparison([*runs[:2], run("e", 0.9, 30.0, method="byol")])
    text = sections(source)
    assert "Compare a loss only" in text["loss_0"]
    assert "Compare a loss only" not in text["loss_1"]
    assert "Final loss" not in text["label_free"]
    lines = [part.count("<polyline") for part in re.findall(r'id="loss_\d">(.*?)</section>', source, flags=re.DOTALL)]
    assert lines == [2, 1]


def test_unfinished_and_unlabeled_runs(runs):
    unfinished = RunResults("new", {}, runs[0].metrics, runs[0].config)
    unlabeled = RunResults("bare", {"knn_accuracy": None, "baselines": None, "transfer": {}}, [], {})
    text = sections(render_comparison([unfinished, unlabeled]))
    assert "not complete" in text["runs"]
    assert "No accuracies" in text["accuracy"]
    assert "No run has metrics" in text["label_free"]
    text = sections(render_comparison([runs[0], unfinished, unlabeled]))
    assert "70.0" in text["accuracy"]
    assert "Rank correlations with the accuracy need 3 complete runs" in text["label_free"]
    assert sections(render_comparison(runs[:1]))["settings"] == "None."


def test_other_datasets_have_a_table_each(runs):
    runs[0].summary["transfer"] = {"pets": accuracies(0.4, baselines={"raw_pixels": accuracies(0.3)})}
    text = sections(render_comparison(runs[:2]))["accuracy"]
    assert text.index("On pets") < text.rindex("40.0")


def test_every_text_is_escaped(runs):
    evil = RunResults(EVIL, {"dataset": EVIL, "transfer": {EVIL: {}}}, [{"step": 1, EVIL: 2.0}], {EVIL: EVIL})
    page = Page(render_comparison([evil, run("b", 0.9, 3.0, method=EVIL)]))
    assert not page.all("script")
    assert page.text.count(EVIL) > 5


def test_lines_over_one_another():
    chart = overlay_chart(
        {0: ([0, 1, 2], [0.0, 1.0, 0.5]), 2: ([0, 4], [0.5, float("nan")]), 9: ([], [])}, "abcdefghij", "x"
    )
    page = Page(chart)
    assert [group["class"] for group in page.all("g")] == ["run0", "run2"]
    assert page.texts[-2:] == ["a: 0.5", "c: 0.5"]
    assert "No values" in overlay_chart({0: ([1], [float("inf")])}, "a", "x")
    dots = Page(overlay_chart({0: ([1.3], [1.3]), 1: ([2.7], [2.7])}, "ab", "x"))
    assert 48 < float(dots.all("circle")[0]["cx"]) < float(dots.all("circle")[1]["cx"]) < 346  # away from the sides


def test_dataset_table():
    rows = {
        "digits": accuracies(0.9, train_images=10, test_images=5, classes=10)
        | {"baselines": {"raw_pixels": accuracies(0.8), "random_init": accuracies(0.95)}},
        EVIL: accuracies(0.7, train_images=6, test_images=2, classes=2)
        | {"baselines": {"raw_pixels": accuracies(0.6)}, "unseen_classes": ["owl"]},
        "bare": {"train_images": 3, "test_images": 2, "classes": None, "knn_accuracy": None, "baselines": None},
    }
    source = dataset_table(rows)
    assert source.count("class=best") == 3  # those of the second row, which are above its only baseline
    text = " ".join(Page(source).text.split())
    for piece in (
        "10 and 5 images, 10 classes",
        "pixels 80.0 random 95.0",
        "no training images of owl",
        "unlabeled - - -",
    ):
        assert piece in text, piece
    assert "LiDAR" not in text
    assert "No other datasets" in dataset_table({})


def test_label_free_facts():
    metrics = {"rankme": 12.3456, "lidar": None, "alpha_req": 1.5, "layer": EVIL, "images": 1000, "views": 10}
    page = Page(label_free_facts(metrics))
    assert not page.all("script")
    for piece in ("12.35", "1.5", "1000 training images", "10 random views"):
        assert piece in page.text
    assert "No metrics without labels" in label_free_facts(None)
