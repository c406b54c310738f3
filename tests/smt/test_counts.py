"""Integer sums equal int64 exactly."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_jax.smt.counts import Counts, digits, integer_product

BOUNDS = [(1, 1), (1, 31), (32, 1), (128, 128), (256, 257), (729, 729), (1, 5000), (5000, 33)]

product = jax.jit(integer_product, static_argnums=(2, 3))
add = jax.jit(Counts.add)
ENDS = [-(2**31), -(2**24) - 1, -(2**24), -1, 0, 1, 2**24 - 1, 2**24, 2**31 - 1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(bound=st.integers(1, 2**30), part=st.floats(-1, 1))
def test_digits_are_small_and_represent_the_integer(bound, part):
    integer = round(part * bound)
    found = digits(np.int32(integer), bound)
    assert sum(int(digit) << 5 * place for place, digit in enumerate(found)) == integer
    assert all(-256 <= digit <= 256 for digit in found)  # exact in bfloat16
    assert all(0 <= digit < 32 for digit in found[:-1])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(bounds=st.sampled_from(BOUNDS), is_signed=st.booleans(), seed=st.integers(0, 1000))
def test_products_equal_those_of_int64(bounds, is_signed, seed):
    random = np.random.default_rng(seed)
    a, b = (
        random.integers(-bound if is_signed else 0, bound, (11, width), endpoint=True).astype(np.int32)
        for bound, width in zip(bounds, (3, 4), strict=True)
    )
    found = product(a, b, *bounds)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, a.astype(np.int64).T @ b.astype(np.int64))


@pytest.mark.parametrize(("rows", "bound"), [(2**24 - 1, 1), (2**24 + 2, 1), (2**13 - 1, 128), (2**11 - 1, 256)])
def test_sums_up_to_the_exact_range_of_float32_and_beyond(rows, bound):
    """All entries but one are at the bound, so that any rounding shows."""
    a, b = np.full((rows, 1), bound, np.int16), np.full((rows, 1), bound, np.int16)
    b[rows // 2] -= 1
    assert int(product(a, b, bound, bound)[0, 0]) == rows * bound**2 - bound


@pytest.mark.parametrize(("rows", "bounds"), [(2**31, (1, 1)), (2**17, (128, 128)), (2**10, (2**10, 2**11))])
def test_too_many_rows_are_rejected(rows, bounds):
    array = jax.ShapeDtypeStruct((rows, 1), np.int32)
    with pytest.raises(ValueError, match=rf"^a must have fewer than {rows} rows, .*; got {rows} rows"):
        jax.eval_shape(lambda a, b: integer_product(a, b, *bounds), array, array)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(ENDS) | st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=30))
def test_counts_equal_the_sum_of_int64(integers):
    """Beyond 2**24 and 2**31, negative and alternating."""
    counts = Counts.zeros((2,))
    for integer in integers:
        counts = add(counts, np.array([integer, -(integer + 1)], np.int32))
        assert 0 <= int(counts.low.min()) <= int(counts.low.max()) < 2**24
    found = counts.numpy()
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, [sum(integers), -sum(integers) - len(integers)])


def test_counts_do_not_saturate():
    """A float32 sum would ignore ones after 2**24; 40 times the largest int32 overflows int32."""
    counts = Counts.zeros(())
    for integer in [2**24, 1, 1, 1] + [2**31 - 1] * 40:
        counts = add(counts, np.int32(integer))
    assert int(counts.numpy()) == 2**24 + 3 + 40 * (2**31 - 1)
