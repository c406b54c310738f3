"""V and L against loops over patches and pairs of patches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.smt import patch_statistics
from vicreg_jax.smt.counts import Counts

# Grids of patches and contexts: whole images, windows, windows wider than one side, one row, one patch.
CASES = [((3, 3), None), ((3, 3), 9), ((4, 4), 1), ((4, 2), 1), ((2, 4), 2), ((1, 6), 2), ((1, 1), 1)]

statistics = jax.jit(patch_statistics, static_argnames=("context", "grid"))


def reference(codes, grid, context):
    """The definition: a sum over patches, and a sum over unordered pairs of patches of the same image."""
    codes = np.asarray(codes, np.float64 if np.issubdtype(codes.dtype, np.floating) else np.int64)
    places = list(np.ndindex(grid))
    V, L = np.zeros((2, codes.shape[2], codes.shape[2]), codes.dtype)
    for image in codes:
        for i, (row, column) in enumerate(places):
            V += np.outer(image[i], image[i])
            for j, (other_row, other_column) in enumerate(places[:i]):
                if context is None or max(abs(row - other_row), abs(column - other_column)) <= context:
                    difference = image[i] - image[j]
                    L += np.outer(difference, difference)
    return V, L


@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=st.sampled_from(CASES), seed=st.integers(0, 1000))
def test_definition_in_float64(case, seed):
    grid, context = case
    codes = np.random.default_rng(seed).normal(size=(3, grid[0] * grid[1], 4))
    with jax.enable_x64(True):
        found = statistics(codes, context=context, grid=grid)
        for actual, expected in zip(found, reference(codes, grid, context), strict=True):
            assert actual.dtype == np.float64
            np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=st.sampled_from(CASES), density=st.sampled_from([0.1, 0.5, 1.0]), seed=st.integers(0, 1000))
def test_boolean_codes_are_summed_exactly(case, density, seed):
    grid, context = case
    codes = np.random.default_rng(seed).random((3, grid[0] * grid[1], 5)) < density
    found = statistics(codes, context=context, grid=grid)
    for actual, expected in zip(found, reference(codes, grid, context), strict=True):
        assert actual.dtype == np.int32
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("context", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_sums_of_many_chunks_exceed_float32_and_int32(context):
    """One chunk is added repeatedly, until V exceeds 2**24 and then 2**31; all sums are exact."""
    codes = np.random.default_rng(0).random((2, 10 * 12, 4)) < [0.05, 0.5, 0.95, 1.0]
    V, L = expected = reference(codes, (10, 12), context)

    def added(counts, _):
        V, L = statistics(codes, context=context, grid=(10, 12))
        return (counts[0].add(V), counts[1].add(L)), None

    def repeated(times):
        start = (Counts.zeros((4, 4)),) * 2
        return jax.jit(lambda: jax.lax.scan(added, start, None, length=times)[0])()

    for chunks in (1, 70_000):
        for found, of_one in zip(repeated(chunks), expected, strict=True):
            np.testing.assert_array_equal(found.numpy(), chunks * of_one)
    assert chunks * V.max() > 2**24
    # Sums of many chunks are added until V exceeds 2**31.
    counts = Counts.zeros((4, 4))
    for _ in range(200):
        counts = counts.add(np.int32(70_000 * V))
    np.testing.assert_array_equal(counts.numpy(), 200 * 70_000 * V)
    assert 200 * 70_000 * V.max() > 2**31
    assert np.abs(L).max() < 2**24  # for one chunk


def test_whole_images_of_many_patches_are_exact():
    """Sums over an image reach 900 and products 900**2, which take several digits."""
    codes = np.random.default_rng(0).random((50, 900, 3)) < [0.9, 0.5, 1.0]
    V, L = statistics(codes)
    wide = codes.astype(np.int64)
    flat, sums = wide.reshape(-1, 3), wide.sum(axis=1)
    np.testing.assert_array_equal(V, flat.T @ flat)
    np.testing.assert_array_equal(L, 900 * (flat.T @ flat) - sums.T @ sums)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.int8, np.int32])
def test_dtype_is_preserved(dtype):
    codes = np.random.default_rng(0).integers(0, 2, (2, 9, 4))
    for context in (None, 1):
        found = statistics(jnp.asarray(codes, dtype), context=context)
        for actual, expected in zip(found, reference(codes, (3, 3), context), strict=True):
            assert actual.dtype == dtype
            np.testing.assert_array_equal(np.asarray(actual, np.int64), expected)


def test_sum_over_images_does_not_depend_on_the_order_of_patches():
    random = np.random.default_rng(0)
    codes = random.random((4, 12, 5)) < 0.4
    expected = np.asarray(statistics(codes))
    np.testing.assert_array_equal(sum(np.asarray(statistics(image[None])) for image in codes), expected)
    np.testing.assert_array_equal(statistics(codes[random.permutation(4)]), expected)
    np.testing.assert_array_equal(statistics(codes[:, random.permutation(12)]), expected)


def test_l_is_positive_semidefinite_and_zero_for_codes_that_are_constant_in_each_image():
    random = np.random.default_rng(0)
    codes = random.random((3, 9, 6)) < 0.4
    for context in (None, 1):
        _, L = statistics(codes, context=context)
        np.testing.assert_array_equal(L, np.asarray(L).T)
        assert np.linalg.eigvalsh(np.float64(L)).min() > -1e-9
        _, L = statistics(np.repeat(codes[:, :1], 9, axis=1), context=context)
        np.testing.assert_array_equal(L, 0)


def test_mean_of_neighbors_is_equivalent_for_whole_images():
    """Differences from the mean of all other codes give L times n / (n - 1)^2."""
    codes = np.random.default_rng(0).normal(size=(2, 9, 4))
    expected = np.zeros((4, 4))
    for image in codes:
        for i in range(9):
            difference = image[i] - np.delete(image, i, axis=0).mean(axis=0)
            expected += np.outer(difference, difference)
    with jax.enable_x64(True):
        _, L = statistics(codes)
        np.testing.assert_allclose(expected, L * 9 / 64, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("error", "name", "shape", "settings"),
    [
        (ValueError, "codes", (9, 4), {}),
        (ValueError, "codes", (0, 9, 4), {}),
        (ValueError, "codes", (2, 0, 4), {}),
        (ValueError, "codes", (2, 9, 0), {}),
        (ValueError, "context", (2, 9, 4), {"context": 0}),
        (ValueError, "context", (2, 9, 4), {"context": -1, "grid": (3, 3)}),
        (ValueError, "grid", (2, 8, 4), {"context": 1}),
        (ValueError, "grid", (2, 9, 4), {"context": 1, "grid": (2, 4)}),
        (ValueError, "grid", (2, 9, 4), {"context": 1, "grid": (9,)}),
        (ValueError, "grid", (2, 9, 4), {"grid": (4, 4)}),
        (ValueError, "grid", (2, 9, 4), {"context": 1, "grid": (-3, -3)}),
    ],
)
def test_rejected_arguments(error, name, shape, settings):
    with pytest.raises(error, match=rf"^{name} must .*; got "):
        patch_statistics(np.ones(shape, bool), **settings)


def test_complex_codes():
    with pytest.raises(TypeError, match=r"^codes must be real; got dtype complex64$"):
        patch_statistics(np.ones((1, 4, 2), np.complex64))


@pytest.mark.parametrize(("images", "context", "maximum"), [(2**13, None, 2**13 - 1), (2**19, 1, 2**31 // (9 * 2**9))])
def test_boolean_codes_whose_sums_overflow_int32(images, context, maximum):
    codes = jax.ShapeDtypeStruct((images, 2**9, 2), bool)
    count = partial(patch_statistics, context=context, grid=(16, 32))
    with pytest.raises(ValueError, match=rf"^codes must have at most {maximum} images of 512 patches if boolean"):
        jax.eval_shape(count, codes)
