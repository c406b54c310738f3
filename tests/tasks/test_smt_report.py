import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.report.page import Page
from vicreg_jax.report import NeighborGrid
from vicreg_jax.smt import SMTOptions, patch_statistics, transform
from vicreg_jax.smt.transform import SMT
from vicreg_jax.smt.whitening import whiten
from vicreg_jax.tasks.smt import report
from vicreg_jax.tasks.smt.pictures import embedded_images
from vicreg_jax.tasks.smt.report import SMTReport, write_smt_report


def random_smt(options, image_shape, seed=0):
    """A random transform, which needs no fit."""
    rng = np.random.default_rng(seed)
    dim = options.patch_size**2 * image_shape[2]
    root = rng.normal(size=(dim, dim))
    atoms = rng.normal(size=(options.atoms, dim))
    return SMT(
        jnp.asarray(root @ root.T / dim + np.eye(dim), jnp.float32),
        jnp.asarray(atoms / np.linalg.norm(atoms, axis=1, keepdims=True), jnp.float32),
        jnp.asarray(rng.normal(size=(options.embedding_dim, options.atoms)), jnp.float32),
        jnp.linspace(10.0, 20.0, options.embedding_dim),
        options,
        image_shape,
    )


def accuracies(linear):
    return {"knn_accuracy": linear + 0.01, "linear_accuracy": linear}


OPTIONS = SMTOptions(patch_size=3, atoms=40, embedding_dim=5, skip=2, pool_window=2, pool_stride=1, pool_cells=2)
RNG = np.random.default_rng(0)
GRID = NeighborGrid(
    RNG.integers(0, 256, (8, 9, 9, 1), dtype=np.uint8),
    RNG.integers(0, 256, (8, 3, 9, 9, 1), dtype=np.uint8),
    np.arange(8) % 2,
    np.arange(24).reshape(8, 3) % 2,
    np.full((8, 3), 0.9),
)
CONTENT = {
    "smt": random_smt(OPTIONS, (9, 9, 1)),
    "summary": {
        "method": "smt",
        "dataset": "digits",
        "steps": 94,
        "epochs": 2,
        "seconds": 12.5,
        "images_per_second": 208.1,
        "loss": 75.0,
        "devices": "1 x cpu",
        "atoms": 40,
        "embedding_dim": 5,
        "patches": 1587000,
        "active_atoms": 7.25,
        "empty_patches": 0.221,
        **accuracies(0.981),
        "baselines": {"raw_pixels": accuracies(0.964), "random_projection": accuracies(0.912)},
    },
    "config": {"seed": 0, "method": {"name": "smt", "atoms": 40}},
    "metrics": [
        {"step": 1, "epoch": 0.5, "pass": "moment", "images_per_second": 900.0, "seconds": 1.0},
        {"step": 2, "epoch": 1.0, "pass": "moment", "images_per_second": 910.0, "seconds": 2.0},
        *(
            {
                "step": step,
                "epoch": step / 2,
                "pass": "statistics",
                "images_per_second": 200.0,
                "seconds": 3.0,
                "active_atoms": 7.0,
                "empty_patches": 0.2,
            }
            for step in (3, 4)
        ),
    ],
    "neighbors": GRID,
    "class_names": ["zero", "one"],
}


def written(path, **changes):
    write_smt_report(path / "report.html", SMTReport(**(CONTENT | changes)))
    return Page((path / "report.html").read_text(encoding="utf-8"))


def test_the_page_holds_every_piece(tmp_path):
    page = written(tmp_path)
    assert [s["id"] for s in page.all("section")] == [
        "results", "atoms", "fields", "nearest_atoms", "spectrum", "fit", "neighbors",
    ]  # fmt: skip
    # The spectrum, active atoms, empty patches, images per second.
    assert len(page.all("svg")) == 1 + 3
    assert all(svg["aria-label"] for svg in page.all("svg"))
    images = page.all("img")
    # Two grids of atoms; test images, and five dimensions with two ends and fields; eight atoms with their nearest of
    # two kinds; eight test images with three neighbors each.
    assert len(images) == 2 + 1 + 5 * 3 + 8 * 3 + 8 * 4
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in images)
    for piece in (
        "98.1",
        "random projection of the same codes",
        "91.2",
        "1.59 M",
        "22.1%",
        "7.25",
        "All 40 atoms",
    ):
        assert piece in page.text, piece
    assert "The first 2 are skipped" in page.text
    assert "config.method.atoms = 40" in page.text
    assert not page.all("script")
    assert "http" not in page.source


def test_every_text_is_escaped(tmp_path):
    evil = '<script>alert("&")</script>'
    changed = {
        "summary": CONTENT["summary"] | {"dataset": evil, "devices": evil},
        "config": {evil: evil},
        "class_names": [evil] * 2,
    }
    page = written(tmp_path, **changed)
    assert not page.all("script")
    # Title and heading, devices, the config's field and value, eight test images with three neighbors.
    assert page.text.count(evil) == 2 + 1 + 2 + 8 * 4


def test_what_is_missing_is_said_to_be(tmp_path):
    summary = {"method": "smt", "steps": 4, **dict.fromkeys(("knn_accuracy", "linear_accuracy", "baselines"))}
    page = written(tmp_path, summary=summary, metrics=[], neighbors=None, class_names=None)
    for sentence in (
        "they need labels in both splits",
        "No test images of the transform's input size",
        "No metrics were logged",
        "No images to show",
    ):
        assert sentence in page.text
    assert not [image for image in page.all("img") if "over the test images" in image["alt"]]
    other_size = dataclasses.replace(GRID, queries=GRID.queries[:, 1:])
    assert "No test images of" in written(tmp_path, neighbors=other_size).text


def test_the_file_is_written_whole(tmp_path):
    (tmp_path / "report.html").write_text("an older report")
    with pytest.raises(KeyError):
        written(tmp_path, metrics=[{"active_atoms": 1.0}])
    assert (tmp_path / "report.html").read_text() == "an older report"
    assert written(tmp_path).all("section")
    assert os.listdir(tmp_path) == ["report.html"]


@pytest.mark.parametrize(
    ("channels", "settings"),
    [
        (1, {"patch_size": 2, "atoms": 2, "embedding_dim": 1, "code": "nearest"}),
        (2, {"patch_size": 2, "atoms": 3, "embedding_dim": 3, "code": "threshold_or_nearest", "dictionary": "kmeans"}),
        (3, {"patch_size": 16, "atoms": 7, "embedding_dim": 2, "context": 1}),
    ],
)
def test_the_smallest_and_the_largest(tmp_path, channels, settings):
    options = SMTOptions(**{"skip": 0, "pool_window": 1, "pool_stride": 1, "pool_cells": 1} | settings)
    shape = (18, 16, channels)
    images = RNG.integers(0, 256, (2, *shape), dtype=np.uint8)
    grid = NeighborGrid(images, images[:, None])
    page = written(tmp_path, smt=random_smt(options, shape), neighbors=grid)
    assert "nan" not in page.text
    nearest = page.image("Nearest to atom 1 in the embedding")
    side = page.image("Atom 1").shape[0]
    assert side % options.patch_size == 0
    assert nearest.shape[1] < (options.atoms - 1) * (nearest.shape[0] + 5)


def test_atoms_are_shown_as_they_are_in_an_image(tmp_path):
    smt = random_smt(OPTIONS, (9, 9, 1))
    patches = np.zeros((40, 9))
    patches[:, 0], patches[:, 8] = 1.0, -1.0
    patches[1] = -patches[1]
    whitened = whiten(jnp.asarray(patches), smt.whitening)
    page = written(tmp_path, smt=dataclasses.replace(smt, dictionary=whitened))
    tiles = page.image("40 atoms")
    pixels = tiles[8 : 3 * 16 : 16, 8 : 3 * 16 : 16]
    assert pixels.shape == (3, 3, 4)
    np.testing.assert_allclose(pixels[..., 0], [[255, 128, 128], [128, 128, 128], [128, 128, 0]], atol=1)
    second = tiles[8 : 3 * 16 : 16, 52 + 8 : 52 + 3 * 16 : 16, 0]
    np.testing.assert_allclose(second, 255 - pixels[..., 0].astype(int), atol=2)
    assert tiles[0, 49, 3] == 0  # between two atoms


def test_a_dimension_is_shown_by_its_ends(tmp_path):
    # With one atom in each code, the first dimension orders the atoms as they are numbered.
    options = dataclasses.replace(OPTIONS, code="nearest")
    smt = random_smt(options, (9, 9, 1))
    angles = np.linspace(-1.5, 1.5, 40)
    projection = np.zeros((5, 40))
    projection[0], projection[1] = np.sin(angles), np.cos(angles)
    page = written(tmp_path, smt=dataclasses.replace(smt, projection=jnp.asarray(projection, jnp.float32)))
    all_atoms, low, high = (
        page.image(alt)
        for alt in (
            "40 atoms",
            "Dimension 1: atoms with the lowest values",
            "Dimension 1: atoms with the highest values",
        )
    )
    np.testing.assert_array_equal(low[:30:10, :30:10], all_atoms[:48:16, :48:16])  # atom 1
    top, left = 39 // 9 * 52, 39 % 9 * 52
    np.testing.assert_array_equal(high[:30:10, :30:10], all_atoms[top : top + 48 : 16, left : left + 48 : 16])  # 40
    # Neighbors on an arc: those before and after it.
    nearest, cosines = report._nearest(np.stack([projection[0], projection[1]], axis=1), 20, 4)
    assert sorted(nearest) == [18, 19, 21, 22]
    np.testing.assert_allclose(cosines, np.cos([0.0769, 0.0769, 0.1538, 0.1538]), atol=1e-4)


def test_fields_over_an_image_are_what_the_transform_pools():
    smt, images = CONTENT["smt"], GRID.queries[:2]
    fields = embedded_images(jax.tree.map(np.asarray, smt), images, 5)
    # Patches of 3 x 3, 2 x 2 of them at a time: places of 4 x 4 pixels, whose center is after the first and before the
    # fourth. At the size of such a place, one cell is all that the transform pools.
    assert np.isnan(fields[:, [0, 7, 8]]).all()
    assert not np.isnan(fields[:, 1:7, 1:7]).any()
    one_place = dataclasses.replace(smt, options=dataclasses.replace(OPTIONS, pool_cells=1), image_shape=(4, 4, 1))
    features = transform(one_place, images[:, 2:6, 3:7])
    expected = fields[:, 3, 4] / np.linalg.norm(fields[:, 3, 4], axis=1, keepdims=True)
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_the_spectrum_is_a_share_of_what_differs():
    # Codes that know nothing of their image: all of it differs within an image.
    codes = jnp.asarray(RNG.choice([-1.0, 1.0], (300, 49, 1)))
    for context in (None, 2):
        smt = dataclasses.replace(CONTENT["smt"], options=dataclasses.replace(OPTIONS, context=context))
        V, L = patch_statistics(codes, context=context, grid=(7, 7))
        assert float(L[0, 0] / V[0, 0]) / report._patches_in_context(smt) == pytest.approx(1, abs=0.02)


def test_a_large_one_is_a_small_file(tmp_path):
    options = SMTOptions(patch_size=6, atoms=500, embedding_dim=16)
    images = RNG.integers(0, 256, (8, 70, 70, 3), dtype=np.uint8)
    page = written(tmp_path, smt=random_smt(options, (70, 70, 3)), neighbors=NeighborGrid(images, images[:, None]))
    assert "72 of 500 atoms" in page.text
    assert len(page.source) < 1_500_000
