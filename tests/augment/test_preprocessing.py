"""Preprocessing checks its fields and is static under jit."""

import jax
import numpy as np
import pytest

from vicreg_jax.augment import Preprocessing


def test_lists_become_tuples_so_that_it_is_static() -> None:
    preprocessing = Preprocessing(8, mean=[0.5, 0.5, 0.5], std=[0.25])
    assert preprocessing == Preprocessing(8, (0.5, 0.5, 0.5), (0.25,), central_fraction=1.0)
    double = jax.jit(lambda x, settings: x * settings.image_size, static_argnums=1)
    np.testing.assert_array_equal(double(np.ones(2), preprocessing), [8, 8])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 0}, "image_size must be an integer of at least 1; got 0"),
        ({"image_size": 8.0}, "image_size must be an integer of at least 1; got 8.0"),
        ({"mean": ()}, r"mean must be one number, or one per channel; got \(\)"),
        ({"mean": 0.5}, "mean must be one number, or one per channel; got 0.5"),
        ({"mean": (0.5, "x")}, "mean must be one number, or one per channel; got"),
        ({"std": (0.5, 0.0)}, r"std must be one number above 0, or one per channel; got \(0.5, 0.0\)"),
        ({"std": (float("nan"),)}, "std must be one number above 0, or one per channel; got"),
        ({"central_fraction": 0.0}, "central_fraction must be a number above 0, at most 1; got 0.0"),
        ({"central_fraction": 1.5}, "central_fraction must be a number above 0, at most 1; got 1.5"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message) -> None:
    with pytest.raises(ValueError, match="^" + message):
        Preprocessing(**{"image_size": 8, "mean": (0.5,), "std": (0.25,), **fields})
