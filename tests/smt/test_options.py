"""Every invalid setting is rejected by name, before any computation."""

from dataclasses import fields

import numpy as np
import pytest

from vicreg_jax.smt import SMTOptions
from vicreg_jax.smt.options import CODES, DICTIONARIES

POSITIVE_INTEGERS = ("patch_size", "atoms", "embedding_dim", "pool_window", "pool_stride", "pool_cells")
INVALID = {
    **{name: [0, -1, 1.5, "3", None, True] for name in POSITIVE_INTEGERS},
    "patch_size": [1, 0, 2.0],
    "skip": [-1, 0.5, None],
    "context": [0, -1, 1.5, "all"],
    "whitening_ridge": [0.0, -1e-3, np.inf, np.nan, "0.1"],
    "ridge": [-1e-9, np.inf, np.nan, None],
    "max_cosine": [0.0, 1.1, np.nan, "1"],
    "threshold": [-0.1, 1.0, np.nan, "0.3"],
    "dictionary": ["random", None],
    "code": ["vq", ""],
    "flips": ["no", 1, None],
    "grayscale": ["no", 0],
}
VALID = {
    "context": [None, 1, 10_000],
    "skip": [0],
    "ridge": [0, 0.0, 0.1],
    "threshold": [0, 0.999],
    "max_cosine": [1, 0.38],
    "dictionary": DICTIONARIES,
    "code": CODES,
}


def test_every_field_has_invalid_values():
    assert set(INVALID) == {field.name for field in fields(SMTOptions)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in INVALID.items() for value in values])
def test_invalid_values(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*; got "):
        SMTOptions(**{name: value})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in VALID.items() for value in values])
def test_valid_values_at_the_limits(name, value):
    assert getattr(SMTOptions(**{name: value}), name) == value


def test_dimensions_and_skipped_eigenvectors_fit_the_atoms():
    SMTOptions(atoms=20, embedding_dim=15, skip=5)
    with pytest.raises(ValueError, match=r"^embedding_dim must be at most 14 for 20 atoms and skip=6; got 15$"):
        SMTOptions(atoms=20, embedding_dim=15, skip=6)


def test_options_are_comparable_and_hashable():
    """Static arguments of compiled functions must be."""
    assert hash(SMTOptions()) == hash(SMTOptions(atoms=2048))
    assert SMTOptions() != SMTOptions(atoms=1024)


@pytest.mark.parametrize(
    ("name", "settings", "shape"),
    [
        ("patch_size", {}, (5, 9, 1)),
        ("patch_size", {}, (9, 5, 3)),
        ("pool_window", {}, (12, 9, 3)),
        ("pool_cells", {}, (14, 14, 3)),
        ("atoms", {"atoms": 3611}, (24, 24, 1)),
        ("grayscale", {"grayscale": True}, (24, 24, 1)),
        ("grayscale", {"grayscale": True}, (24, 24, 4)),
    ],
)
def test_images_that_do_not_fit(name, settings, shape):
    with pytest.raises(ValueError, match=rf"^{name} must be .*; got "):
        SMTOptions(**settings).check_images(shape, 10)


def test_images_that_just_fit():
    SMTOptions(atoms=722).check_images((24, 24, 3), 3)
    SMTOptions(atoms=721, embedding_dim=100).check_images((24, 24, 3), 2)
    SMTOptions(atoms=722, flips=True).check_images((24, 24, 3), 1)
    SMTOptions(atoms=722 * 2, flips=True, grayscale=True).check_images((24, 24, 3), 1)
    SMTOptions(atoms=722, pool_window=7, pool_stride=1, pool_cells=1).check_images((12, 200, 3), 1)
    SMTOptions(atoms=600, pool_window=5, pool_stride=3, pool_cells=3).check_images((16, 60, 3), 1)
