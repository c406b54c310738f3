"""Dictionaries: greedy selection against a loop, and known clusters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.smt import dictionary
from vicreg_jax.smt.dictionary import cluster_centers, dissimilar_rows


def unit_rows(count, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def greedy(rows, max_cosine, kept_rows=()):
    """The selection, by a loop."""
    kept_rows, kept = [np.float64(row) for row in kept_rows], []
    for row in np.float64(rows):
        kept.append(all(row @ other <= max_cosine for other in kept_rows))
        if kept[-1]:
            kept_rows.append(row)
    return kept


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    count=st.integers(0, 60),
    already_kept=st.integers(0, 10),
    dim=st.integers(2, 6),
    max_cosine=st.sampled_from([0.1, 0.35, 0.7, 0.95]),
    block=st.sampled_from([1, 7, 1024]),
    seed=st.integers(0, 1000),
)
def test_dissimilar_rows_equal_the_greedy_loop(count, already_kept, dim, max_cosine, block, seed):
    rows, kept_rows = unit_rows(count, dim, seed), unit_rows(already_kept, dim, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dictionary, "_BLOCK", block)
        found = dissimilar_rows(rows, max_cosine, kept_rows)
    np.testing.assert_array_equal(found, np.array(greedy(rows, max_cosine, kept_rows), bool))


def test_more_rows_than_a_block():
    rows = unit_rows(2500, 4, 0)
    found = dissimilar_rows(rows, 0.9)
    assert found[1024:].any()
    np.testing.assert_array_equal(found, greedy(rows, 0.9))


def test_only_selected_rows_reject_others():
    """At 0, 50 and 100 degrees the third row is similar to the second alone, which is rejected."""
    angles = np.radians([0, 50, 100])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_array_equal(dissimilar_rows(rows, 0.5), [True, False, True])


def test_max_cosine_of_one_selects_all_rows():
    rows = unit_rows(1, 5, 0).repeat(4, axis=0)
    assert dissimilar_rows(rows, 1.0).all()
    assert dissimilar_rows(rows, 1.0, rows).all()


def test_cluster_centers_are_the_directions_of_the_clusters():
    """The clusters are well separated; two lie opposite to others."""
    random = np.random.default_rng(0)
    directions = np.concatenate([np.eye(4), -np.eye(4)[:2]])
    patches = directions.repeat(200, axis=0) + random.normal(scale=0.02, size=(1200, 4))
    patches = (patches / np.linalg.norm(patches, axis=1, keepdims=True)).astype(np.float32)
    # With more centers than clusters, every cluster gets one from any start.
    found = cluster_centers(patches, 24, seed=1)
    assert found.shape == (24, 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.all((directions @ found.T).max(axis=1) > 0.99)
    np.testing.assert_array_equal(found, cluster_centers(patches, 24, seed=1))
