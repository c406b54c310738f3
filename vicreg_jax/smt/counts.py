"""Exact integer sums on devices with fast floating-point matrix products and 32-bit integers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_EXACT = 2**24  # float32 is exact for integers up to here, and for sums that stay below
_LOW_BITS = 24
_DIGIT_BITS = 5
_MAX_DIGIT = 2**8  # bfloat16 is exact for all integers up to here


def digits(integers: jax.Array, bound: int) -> list[jax.Array]:
    """Splits integers, `|integers| <= bound`, into base-32 digits that bfloat16 represents exactly.

    Digits are in order of significance, the least first. The last one carries the sign and may reach 256.
    """
    found = []
    while bound > _MAX_DIGIT:
        found.append(integers & (2**_DIGIT_BITS - 1))
        integers, bound = integers >> _DIGIT_BITS, (bound >> _DIGIT_BITS) + 1
    return [*found, integers]


def integer_product(a: jax.Array, b: jax.Array, bound_a: int = 1, bound_b: int = 1) -> jax.Array:
    r"""The exact product :math:`a^\top b` of integers, computed by floating-point products.

    The textbook form is one integer product, `a.T @ b`. It equals

    .. math:: a^\top b = \sum_{i,j} 32^{i+j} \, a_i^\top b_j, \qquad
        a = \sum_i 32^i a_i, \quad b = \sum_j 32^j b_j

    where each product of digits :math:`a_i^\top b_j` is a float32 product over few enough rows that no sum exceeds
    :math:`2^{24}`.

    Args:
        a: integers or booleans, `[rows, m]`.
        b: integers or booleans, `[rows, n]`.
        bound_a: bound of the absolute values of `a`.
        bound_b: bound of the absolute values of `b`.

    Returns:
        int32 `[m, n]`.

    Raises:
        ValueError: so many rows that a sum could overflow int32.
    """
    if len(a) * bound_a * bound_b >= 2**31:
        raise ValueError(
            f"a must have fewer than {-(-(2**31) // (bound_a * bound_b))} rows, so that int32 sums do not overflow "
            f"with entries up to {bound_a} and {bound_b}; got {len(a)} rows"
        )
    rows = (_EXACT - 1) // (min(bound_a, _MAX_DIGIT) * min(bound_b, _MAX_DIGIT))
    total = jnp.zeros((a.shape[1], b.shape[1]), jnp.int32)
    for start in range(0, len(a), rows):
        a_digits = digits(a[start : start + rows].astype(jnp.int32), bound_a)
        b_digits = digits(b[start : start + rows].astype(jnp.int32), bound_b)
        for i, a_digit in enumerate(a_digits):
            for j, b_digit in enumerate(b_digits):
                total += _float_product(a_digit, b_digit).astype(jnp.int32) << (_DIGIT_BITS * (i + j))
    return total


def _float_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a.T @ b` in float32, for integers that bfloat16 represents exactly: by the matrix units' native dtype."""

    def product(dtype: jnp.dtype, precision: jax.lax.Precision) -> jax.Array:
        return jax.lax.dot_general(
            a.astype(dtype),
            b.astype(dtype),
            (((0,), (0,)), ((), ())),
            precision=precision,
            preferred_element_type=jnp.float32,
        )

    # On CPUs, XLA's products are fastest in float32 (benchmarks/smt.py).
    return jax.lax.platform_dependent(
        cpu=lambda: product(jnp.float32, jax.lax.Precision.HIGHEST),
        default=lambda: product(jnp.bfloat16, jax.lax.Precision.DEFAULT),
    )


class Counts(NamedTuple):
    r"""Exact sums of int32 arrays that may overflow int32, in two int32 arrays.

    The textbook form is one int64 sum; without 64-bit types on the device it is

    .. math:: 2^{24} \, \text{high} + \text{low}, \qquad 0 \leq \text{low} < 2^{24}

    which is exact for absolute values up to :math:`2^{54}`.

    Attributes:
        high: int32.
        low: int32.
    """

    high: jax.Array
    low: jax.Array

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> "Counts":
        """Counts of zero."""
        return cls(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32))

    def add(self, integers: jax.Array) -> "Counts":
        """Adds an int32 array."""
        mask = 2**_LOW_BITS - 1
        low = self.low + (integers & mask)
        return Counts(self.high + (integers >> _LOW_BITS) + (low >> _LOW_BITS), low & mask)

    def numpy(self) -> np.ndarray:
        """The counts as int64 on the host."""
        return (np.asarray(self.high, np.int64) << _LOW_BITS) + np.asarray(self.low)
