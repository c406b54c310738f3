"""The FLOPs that benchmarks count in a program."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.roofline import matrix_flops

MATRIX = jnp.zeros((4, 4))
IMAGES, KERNEL = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))


def convolve(images, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=numbers)


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (lambda x: x @ x, (MATRIX,), 2 * 4**3),
        (lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=7)[0], (MATRIX,), 7 * 2 * 4**3),
        (lambda x: jax.lax.cond(True, lambda x: x @ x @ x, lambda x: x @ x, x), (MATRIX,), 2 * 2 * 4**3),
        (convolve, (IMAGES, KERNEL), 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)),
        # The value, and the gradient of the kernel, which has as many products.
        (jax.grad(lambda x, kernel: jnp.sum(convolve(x, kernel)), argnums=1), (IMAGES, KERNEL), 2 * 2 * 80 * 2 * 27),
    ],
)
def test_matrix_flops(function, arguments, expected):
    assert matrix_flops(jax.make_jaxpr(function)(*arguments)) == expected
