"""Pooling against loops over windows and cells, with PyTorch's definitions."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.smt.pooling import pool, pooling_matrix

jitted = jax.jit(pool)


def average_pool(values, window, stride):
    """Along the first axis, without incomplete windows."""
    starts = range(0, len(values) - window + 1, stride)
    return np.stack([values[start : start + window].mean(axis=0) for start in starts])


def adaptive_average_pool(values, cells):
    n, pooled = len(values), []
    for cell in range(cells):
        start, stop = int(np.floor(cell * n / cells)), int(np.ceil((cell + 1) * n / cells))
        pooled.append(values[start:stop].mean(axis=0))
    return np.stack(pooled)


def along_axis(values, axis, window, stride, cells):
    values = np.moveaxis(values, axis, 0)
    return np.moveaxis(adaptive_average_pool(average_pool(values, window, stride), cells), 0, axis)


def unit(vectors):
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(size=st.integers(1, 40), window=st.integers(1, 8), stride=st.integers(1, 5), cells=st.integers(1, 12))
def test_matrix_equals_the_two_poolings(size, window, stride, cells):
    """There may be more cells than pooled values."""
    window = min(window, size)
    found = pooling_matrix(size, window, stride, cells)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, along_axis(np.eye(size), 0, window, stride, cells), atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_sizes_of_the_notebook():
    """27 patches give 8 windows of 5 at stride 3, in overlapping cells of 3, 4 and 3 windows."""
    found = pooling_matrix(27, 5, 3, 3)
    assert [np.flatnonzero(row)[[0, -1]].tolist() for row in found] == [[0, 10], [6, 19], [15, 25]]


@pytest.mark.parametrize("shape", [(2, 7, 7, 5), (3, 9, 6, 4)])
def test_patches_and_cells_have_unit_norm(shape):
    """On square and other grids; a cell of zeros stays zero."""
    embeddings = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    embeddings[0, :4, :4] = 0
    embeddings[1] *= 1000  # norms have no influence
    over_rows, over_columns = (pooling_matrix(size, 2, 2, 3) for size in shape[1:3])
    found = np.asarray(jitted(embeddings, over_rows, over_columns))
    expected = along_axis(along_axis(unit(np.float64(embeddings)), 1, 2, 2, 3), 2, 2, 2, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, unit(expected).reshape(len(embeddings), -1), atol=1e-5)
    np.testing.assert_array_equal(found.reshape(-1, 3, 3, shape[3])[0, 0, 0], 0)
