"""Measured peak rates of a device, matrix products and memory traffic, and the FLOPs of a program."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.measure import median_seconds


def matmul_flops_per_second(precision: str, size: int | None = None) -> float:
    """The rate of a large square matrix product in `precision` ('float32' or 'bfloat16') on one device."""
    size = size or (2048 if jax.devices()[0].platform == "cpu" else 16384)  # long beside the start of a program
    matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(precision))
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / median_seconds(product, matrix, matrix, repeats=7, warmup=2)


def bytes_per_second(megabytes: int | None = None) -> float:
    """The rate at which one device reads and writes its memory, both counted, on an array larger than any cache."""
    megabytes = megabytes or (256 if jax.devices()[0].platform == "cpu" else 4096)
    array = jnp.zeros(megabytes * 2**20 // 4, jnp.float32)
    return 2 * array.nbytes / median_seconds(jax.jit(lambda x: x + 1), array, repeats=7, warmup=2)


def matrix_flops(jaxpr: Any) -> float:
    """FLOPs of the matrix products and convolutions of a program on all devices, a multiply-add counted as two.

    XLA's own count leaves out the libraries that the programs of GPUs call. Padding is counted; zeros between the
    pixels of an image (the gradient of a stride) are not.

    >>> matrix_flops(jax.make_jaxpr(lambda x: x @ x)(jnp.zeros((10, 10))))
    2000.0
    """
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = given["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel, features = equation.invars[1].aval, given["dimension_numbers"].rhs_spec[0]
            products = kernel.size / kernel.shape[features] / math.prod(given["lhs_dilation"])
            total += 2.0 * equation.outvars[0].aval.size * products
        inner = [matrix_flops(each) for each in _inner(given)]
        times = given["length"] if name == "scan" else given["mesh"].size if name == "shard_map" else 1
        total += max(inner, default=0.0) if name == "cond" else times * sum(inner)
    return total


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    """The programs among the parameters of an operation."""
    for value in parameters.values():
        for each in value if isinstance(value, (tuple, list)) else [value]:
            if hasattr(each, "eqns") or hasattr(each, "jaxpr"):
                yield each
