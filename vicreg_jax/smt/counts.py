"""Exact sums of products of integers, on devices whose fast products are of floats and whose integers have 32 bits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_EXACT = 2**24  # integers up to here are exact in float32, and so are sums that stay below
_LOW_BITS = 24
_DIGIT_BITS = 5
_LARGEST_DIGIT = 2**8  # bfloat16 holds no more of all integers


def digits(integers: jax.Array, largest: int) -> list[jax.Array]:
    """Integers, `|integers| <= largest`, that bfloat16 holds: themselves, or their digits in base 32, least first.

    The last digit has the sign, and may be up to 256.
    """
    found = []
    while largest > _LARGEST_DIGIT:
        found.append(integers & (2**_DIGIT_BITS - 1))
        integers, largest = integers >> _DIGIT_BITS, (largest >> _DIGIT_BITS) + 1
    return [*found, integers]


def integer_product(a: jax.Array, b: jax.Array, largest_a: int = 1, largest_b: int = 1) -> jax.Array:
    """`a^T b` of integers, exactly, by products of floats.

    Digit by digit and so few rows at a time that no sum leaves the integers that float32 holds; the rest is int32.

    Args:
      a, b: integers or booleans `[rows, m]` and `[rows, n]`.
      largest_a, largest_b: bounds of their absolute values.

    Returns:
      int32 `[m, n]`.

    Raises:
      ValueError: so many rows that a sum could leave int32.
    """
    if len(a) * largest_a * largest_b >= 2**31:
        raise ValueError(
            f"a, b: got {len(a)} rows of integers up to {largest_a} and {largest_b}, takes fewer rows at a time"
        )
    rows = (_EXACT - 1) // (min(largest_a, _LARGEST_DIGIT) * min(largest_b, _LARGEST_DIGIT))
    total = jnp.zeros((a.shape[1], b.shape[1]), jnp.int32)
    for start in range(0, len(a), rows):
        a_digits = digits(a[start : start + rows].astype(jnp.int32), largest_a)
        b_digits = digits(b[start : start + rows].astype(jnp.int32), largest_b)
        for i, a_digit in enumerate(a_digits):
            for j, b_digit in enumerate(b_digits):
                total += _float_product(a_digit, b_digit).astype(jnp.int32) << (_DIGIT_BITS * (i + j))
    return total


def _float_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a^T b` in float32, of integers that bfloat16 holds as well: the matrix units' own type."""

    def product(dtype: jnp.dtype, precision: jax.lax.Precision) -> jax.Array:
        return jax.lax.dot_general(
            a.astype(dtype),
            b.astype(dtype),
            (((0,), (0,)), ((), ())),
            precision=precision,
            preferred_element_type=jnp.float32,
        )

    # XLA's CPU products are fastest in float32 (benchmarks/smt.py).
    return jax.lax.platform_dependent(
        cpu=lambda: product(jnp.float32, jax.lax.Precision.HIGHEST),
        default=lambda: product(jnp.bfloat16, jax.lax.Precision.DEFAULT),
    )


class Counts(NamedTuple):
    """Sums of int32 arrays that int32 no longer holds: `high * 2**24 + low`, exact up to 2^54 either side of 0."""

    high: jax.Array
    low: jax.Array  # from 0 to 2**24 - 1

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> "Counts":
        """Nothing counted yet."""
        return cls(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32))

    def add(self, integers: jax.Array) -> "Counts":
        """The counts with an int32 array added."""
        mask = 2**_LOW_BITS - 1
        low = self.low + (integers & mask)
        return Counts(self.high + (integers >> _LOW_BITS) + (low >> _LOW_BITS), low & mask)

    def numpy(self) -> np.ndarray:
        """The counts as int64, on the host."""
        return (np.asarray(self.high, np.int64) << _LOW_BITS) + np.asarray(self.low)
