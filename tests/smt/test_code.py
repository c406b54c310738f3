"""Codes against a loop over patches and atoms."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.smt.code import nearest_code, threshold_code, threshold_or_nearest_code

THRESHOLDS = [0.0, 0.3, 0.6]


@jax.jit
def all_codes(patches, dictionary, threshold):
    return (
        threshold_code(patches, dictionary, threshold),
        threshold_or_nearest_code(patches, dictionary, threshold),
        nearest_code(patches, dictionary),
    )


def l2_normalize(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def reference(patches, dictionary, threshold):
    by_threshold = np.zeros((len(patches), len(dictionary)), bool)
    by_either, by_nearest = by_threshold.copy(), by_threshold.copy()
    for i, patch in enumerate(np.float64(patches)):
        cosines = [float(patch @ atom) for atom in np.float64(dictionary)]
        for j, cosine in enumerate(cosines):
            by_threshold[i, j] = cosine > threshold
        if np.any(patch):
            by_nearest[i, int(np.argmax(cosines))] = True
        by_either[i] = by_threshold[i] if any(by_threshold[i]) else by_nearest[i]
    return by_threshold, by_either, by_nearest


@settings(max_examples=30, deadline=None, derandomize=True)
@given(threshold=st.sampled_from(THRESHOLDS), seed=st.integers(0, 1000))
def test_codes_equal_a_loop(threshold, seed):
    random = np.random.default_rng(seed)
    patches, dictionary = l2_normalize(random.normal(size=(12, 7))), l2_normalize(random.normal(size=(5, 7)))
    patches[3] = 0  # a flat patch activates no atom, not even the nearest
    found = all_codes(patches, dictionary, threshold)
    for code, expected in zip(found, reference(patches, dictionary, threshold), strict=True):
        assert code.dtype == bool
        np.testing.assert_array_equal(code, expected)
        assert not np.any(code[3])


def test_leading_dimensions_are_preserved():
    random = np.random.default_rng(0)
    patches, dictionary = l2_normalize(random.normal(size=(2, 3, 4, 7))), l2_normalize(random.normal(size=(5, 7)))
    for code, flat in zip(
        all_codes(patches, dictionary, 0.3), reference(patches.reshape(-1, 7), dictionary, 0.3), strict=True
    ):
        np.testing.assert_array_equal(code, flat.reshape(2, 3, 4, 5))


@pytest.mark.parametrize("cosine", [0.5, 0.25])
def test_cosine_equal_to_the_threshold_is_inactive(cosine):
    """The numbers are exact in float32."""
    patches, dictionary = np.eye(2, dtype=np.float32)[:1], np.array([[cosine, 0], [cosine + 2**-20, 0]], np.float32)
    by_threshold, _, _ = all_codes(patches, dictionary, cosine)
    np.testing.assert_array_equal(by_threshold, [[False, True]])


def test_ties_activate_the_first_atom():
    dictionary = np.eye(3, dtype=np.float32)[[2, 0, 0, 1]]
    _, either, nearest = all_codes(np.eye(3, dtype=np.float32)[:1], dictionary, 0.9)
    np.testing.assert_array_equal(nearest, [[False, True, False, False]])
    np.testing.assert_array_equal(either, [[False, True, True, False]])


def test_atoms_activate_themselves():
    """The cosine with itself is 1 up to rounding."""
    rows = l2_normalize(np.random.default_rng(0).normal(size=(12, 7)))
    by_threshold, either, nearest = all_codes(rows, rows, 1 - 1e-5)
    for code in (by_threshold, either, nearest):
        np.testing.assert_array_equal(code, np.eye(12, dtype=bool))
