"""Images and settings that a fit refuses, as early as it can."""

import sys

import numpy as np
import pytest

from tests.smt.fits import (
    COUNT,
    KEY,
    OPTIONS,
    SETTINGS,
    SHAPE,
    Stream,
    dictionary_of,
    run,
    smooth_images,
)
from vicreg_jax.smt import SMTOptions, fit


def two_kinds_of_patches():
    """Images with one vertical edge, which have few distinct patches."""
    images = np.zeros((COUNT, *SHAPE), np.uint8)
    images[:, :, 4:] = 200
    return images


REJECTED_AT_ONCE = [
    (ValueError, "patch_size", smooth_images, {"patch_size": 8}),
    (ValueError, "patch_size", smooth_images, {"patch_size": 1}),
    (ValueError, "atoms", lambda: smooth_images(1), {"atoms": 31}),
    (ValueError, "embedding_dim", smooth_images, {"embedding_dim": 24}),
    (ValueError, "embedding_dim", smooth_images, {"skip": 19}),
    (ValueError, "pool_window", smooth_images, {"pool_window": 6}),
    (ValueError, "pool_cells", smooth_images, {"pool_cells": 5}),
    (ValueError, "grayscale", lambda: smooth_images(shape=(7, 8, 1)), {"grayscale": True}),
    (ValueError, "context", smooth_images, {"context": 0}),
    (ValueError, "color", smooth_images, {"color": 1}),
    (ValueError, "chunk_size", smooth_images, {"chunk_size": 0}),
    (ValueError, "chunk_size", smooth_images, {"chunk_size": -8}),
    (ValueError, "images", lambda: smooth_images()[0], {}),
    (ValueError, "images", lambda: smooth_images()[:0], {}),
    (ValueError, "images", lambda: smooth_images() * 1.0, {}),
    (ValueError, "images", lambda: smooth_images() / -255, {}),
    (ValueError, "images", lambda: smooth_images() * np.nan, {}),
    (TypeError, "images", lambda: smooth_images().astype(np.int32), {}),
    (TypeError, "images", lambda: smooth_images() > 100, {}),
    (TypeError, "images", lambda: smooth_images().astype(str), {}),
]


@pytest.mark.parametrize(("error", "name", "images", "settings"), REJECTED_AT_ONCE)
def test_rejected_before_the_first_pass(error, name, images, settings, monkeypatch):
    # `vicreg_jax.smt.fit` as an attribute is the function, not the module.
    monkeypatch.setattr(sys.modules["vicreg_jax.smt.fit"], "_add_moment", None)
    with pytest.raises(error, match=rf"^{name} must "):
        fit(images(), key=KEY, **SETTINGS | settings)


def test_chunks_whose_sums_overflow_int32():
    """The sums are largest for wide contexts."""
    for settings, maximum in (({}, (2**31 - 1) // 27**4), ({"context": 20}, (2**31 - 1) // (27 * 41) ** 2)):
        options = SMTOptions(**SETTINGS | settings)
        options.check_chunk((29, 29, 3), maximum)
        with pytest.raises(ValueError, match=rf"^chunk_size must be at most {maximum} .*; got {maximum + 1}$"):
            options.check_chunk((29, 29, 3), maximum + 1)


REJECTED_AFTER_ONE_PASS = [
    ("images", lambda: np.full((COUNT, *SHAPE), 90, np.uint8)),
    ("images", lambda: np.broadcast_to(np.arange(COUNT, dtype=np.uint8)[:, None, None, None], (COUNT, *SHAPE))),
    ("embedding_dim", two_kinds_of_patches),
]


@pytest.mark.parametrize(("name", "images"), REJECTED_AFTER_ONE_PASS)
def test_rejected_before_the_second_pass(name, images):
    stream = Stream(images())
    with pytest.raises(ValueError, match=rf"^{name} must "):
        run(stream)
    assert stream.starts == [0]


REJECTED_DICTIONARIES = [
    ("threshold", smooth_images, {"dictionary": "kmeans", "threshold": 0.9999}, None),
    ("atoms", smooth_images, {"max_cosine": 0.01}, None),
    ("atoms", two_kinds_of_patches, {"dictionary": "kmeans"}, np.eye(27, dtype=np.float32)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "images", "settings", "whitening"), REJECTED_DICTIONARIES)
def test_rejected_dictionaries(name, images, settings, whitening):
    with pytest.raises(ValueError, match=rf"^{name} must "):
        dictionary_of(images(), settings, whitening)


def test_rank_that_only_the_second_pass_shows():
    """The eigenproblem's own argument is `dim`; the option is `embedding_dim`."""
    module, V = sys.modules["vicreg_jax.smt.fit"], np.diag(np.arange(24) < 5)
    with pytest.raises(ValueError, match=r"^embedding_dim must be at most 4 with skip=1, for V has rank 5; got 6$"):
        module.solve(V, V, OPTIONS)
