"""Measured peak rates of a device: matrix products and memory traffic."""

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
