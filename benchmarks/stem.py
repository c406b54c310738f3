"""Forms of ResNet's ImageNet stem: its convolution on 3 channels, and its max-pooling with the gradient.

    python -m benchmarks.stem --output=benchmarks/results/gpu_stem.json

The convolution (7x7, stride 2): as it stands in the model; with zero channels, up to a multiple of what tensor cores
take; and over blocks of 2x2 pixels, as a 4x4 convolution with stride 1 on 12 channels. Max-pooling (3x3, stride 2):
with XLA's own gradient, which searches each window for its maximum again; and with the place of the maximum
remembered. All forms are checked against the first.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import median_seconds, write_results
from benchmarks.roofline import bytes_per_second, matmul_flops_per_second
from vicreg_jax.models import mixed_precision


def _conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Any) -> jax.Array:
    convolution = mixed_precision.conv(x.dtype)["conv_general_dilated"] if x.dtype != jnp.float32 else None
    if convolution is None:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers)
    return convolution(x, kernel, (stride, stride), padding)


def direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _conv(x, kernel, 2, ((3, 3), (3, 3)))


def padded(x: jax.Array, kernel: jax.Array, *, channels: int) -> jax.Array:
    more = channels - x.shape[-1]
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more)))
    return direct(x, jnp.pad(kernel, ((0, 0), (0, 0), (0, more), (0, 0))))


def blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Pixel 2 i + r is part r of block i; the kernel, with a zero row and column in front, is 4x4 blocks."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return _conv(
        x.reshape(batch, height // 2, width // 2, 4 * channels),
        kernel.reshape(4, 4, 4 * channels, -1),
        1,
        ((2, 1), (2, 1)),
    )


def pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def _windows(x: jax.Array) -> list[jax.Array]:
    """Entry k of each 3x3 window with stride 2, for k = 0..8."""
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return [
        jax.lax.slice(x, (0, i, j, 0), (batch, i + height - 1, j + width - 1, channels), (1, 2, 2, 1))
        for i in range(3)
        for j in range(3)
    ]


@jax.custom_vjp
def pool_with_places(x: jax.Array) -> jax.Array:
    return pool(x)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    first, *others = _windows(x)
    largest, place = first, jnp.zeros(first.shape, jnp.uint8)
    for number, other in enumerate(others, 1):
        place = jnp.where(other > largest, jnp.uint8(number), place)
        largest = jnp.maximum(largest, other)
    return largest, place


def _backward(place: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    zero = jnp.zeros((), g.dtype)
    total = 0
    for number in range(9):
        i, j = divmod(number, 3)
        # Entry (i, j) of window o is pixel 2 o + (i, j) - 1; negative padding cuts off what is outside.
        padding = [(0, 0, 0), (i - 1, 2 - i, 1), (j - 1, 2 - j, 1), (0, 0, 0)]
        total += jax.lax.pad(jnp.where(place == number, g, zero), zero, padding)
    return (total,)


pool_with_places.defvjp(_forward, _backward)


def _gradients(function: Callable[..., jax.Array], *, argnums: int) -> Callable[..., tuple[Any, Any]]:
    @jax.jit
    def run(*arguments: jax.Array) -> tuple[Any, Any]:
        *inputs, g = arguments

        def of_one(argument: jax.Array) -> jax.Array:
            return function(*inputs[:argnums], argument, *inputs[argnums + 1 :])

        y, pull_back = jax.vjp(of_one, inputs[argnums])
        return y, pull_back(g)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rng, half = np.random.default_rng(0), arguments.image_size // 2
    dtype = jnp.dtype(arguments.precision)
    x = jnp.asarray(rng.standard_normal((arguments.batch, 2 * half, 2 * half, 3), np.float32), dtype)
    kernel = jnp.asarray(0.1 * rng.standard_normal((7, 7, 3, 64), np.float32))
    y = jax.jit(lambda x, kernel: jax.nn.relu(direct(x, kernel)))(x, kernel)
    g, pooled_g = y - 0.5, jax.jit(pool)(y) - 0.5
    convolutions = {
        "direct": direct,
        "4 channels": partial(padded, channels=4),
        "8 channels": partial(padded, channels=8),
    }
    cases = {
        f"convolution, {name}": (form, 1, (x, kernel, g)) for name, form in (convolutions | {"blocks": blocks}).items()
    }
    cases |= {
        f"pooling, {name}": (form, 0, (y, pooled_g))
        for name, form in {"XLA's": pool, "places": pool_with_places}.items()
    }
    rate, flops = bytes_per_second(), matmul_flops_per_second(arguments.precision)
    rows, first = [], {}
    for name, (form, argnums, inputs) in cases.items():
        function = _gradients(form, argnums=argnums)
        forward = jax.jit(form)
        found = jax.tree.map(lambda array: np.asarray(array[:64], np.float32), function(*inputs))
        reference = first.setdefault(name.split(",")[0], found)
        rows.append(
            {
                "form": name,
                "milliseconds_forward": 1e3 * median_seconds(forward, *inputs[:-1], repeats=arguments.repeats),
                "milliseconds": 1e3 * median_seconds(function, *inputs, repeats=arguments.repeats),
                "largest_difference": max(
                    float(np.abs(a - b).max() / np.abs(b).max())
                    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True)
                ),
            }
        )
        print(rows[-1], flush=True)
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    rates = {"bytes_per_second": rate, "flops_per_second": flops}
    write_results(arguments.output, settings=settings, rates=rates, results=rows)


if __name__ == "__main__":
    main()
