"""Forms of ResNet's ImageNet stem: its convolution on 3 channels, and its max-pooling with the gradient.

    python -m benchmarks.stem --output=benchmarks/results/gpu_stem.json

The convolution (7x7, stride 2): as it stands in the model; with zero channels, up to a multiple of what tensor cores
take; and over blocks of 2x2 pixels, as a 4x4 convolution with stride 1 on 12 channels. Max-pooling (3x3, stride 2):
with XLA's own gradient, which searches each window for its maximum again; and with the place of the maximum
remembered. All forms are checked against the first.

`--topology=v5e:2x2` compiles the forms for a chip of a TPU slice that need not be here (extra `tpu`), and adds up the
compiler's estimated cycles and the traffic with the chip's memory.
"""

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from benchmarks.measure import median_seconds, write_results
from benchmarks.roofline import bytes_per_second, matmul_flops_per_second
from vicreg_jax.models import mixed_precision
from vicreg_jax.models.stem import blocks_of, kernel_of_blocks, max_pool_by_places, max_pool_textbook
from vicreg_jax.training import topology
from vicreg_jax.training.traffic import traffic_by_part


def direct(x: jax.Array, kernel: jax.Array, stride: int = 2, padding: Any = ((3, 3), (3, 3))) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    convolve = mixed_precision.conv(x.dtype).get("conv_general_dilated", jax.lax.conv_general_dilated)
    return convolve(x, kernel, (stride, stride), padding, dimension_numbers=numbers)


def padded(x: jax.Array, kernel: jax.Array, *, channels: int) -> jax.Array:
    more = channels - x.shape[-1]
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more)))
    return direct(x, jnp.pad(kernel, ((0, 0), (0, 0), (0, more), (0, 0))))


def in_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return direct(blocks_of(x), kernel_of_blocks(kernel), 1, ((2, 1), (2, 1)))


def _gradients(function: Callable[..., jax.Array], *, argnums: int) -> Callable[..., tuple[Any, Any]]:
    @jax.jit
    def run(*arguments: jax.Array) -> tuple[Any, Any]:
        *inputs, g = arguments

        def of_one(argument: jax.Array) -> jax.Array:
            return function(*inputs[:argnums], argument, *inputs[argnums + 1 :])

        y, pull_back = jax.vjp(of_one, inputs[argnums])
        return y, pull_back(g)

    return run


def compiled_for_tpu(name: str, cases: dict[str, Any]) -> list[dict[str, Any]]:
    """The compiler's estimate of each form on one chip."""
    sharding = SingleDeviceSharding(topology.open_topology(name).devices[0])
    rows = []
    for form, (function, argnums, inputs) in cases.items():
        shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding) for array in inputs]
        text = _gradients(function, argnums=argnums).lower(*shapes).compile().as_text() or ""
        cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text)))
        rows.append({"form": form, "cycles": cycles, "bytes": sum(traffic_by_part(text).values())})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--topology", help="compile for a TPU only")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.topology:
        topology.prepare(arguments.topology)
    rng, half = np.random.default_rng(0), arguments.image_size // 2
    dtype = jnp.dtype(arguments.precision)
    x = jnp.asarray(rng.standard_normal((arguments.batch, 2 * half, 2 * half, 3), np.float32), dtype)
    kernel = jnp.asarray(0.1 * rng.standard_normal((7, 7, 3, 64), np.float32))
    y = jax.jit(lambda x, kernel: jax.nn.relu(direct(x, kernel)))(x, kernel)
    g, pooled_g = y - 0.5, jax.jit(max_pool_textbook)(y) - 0.5
    convolved, pooled = (1, (x, kernel, g)), (0, (y, pooled_g))
    cases = {
        "convolution, direct": (direct, *convolved),
        "convolution, 4 channels": (partial(padded, channels=4), *convolved),
        "convolution, 8 channels": (partial(padded, channels=8), *convolved),
        "convolution, blocks": (in_blocks, *convolved),
        "pooling, XLA's": (max_pool_textbook, *pooled),
        "pooling, places": (max_pool_by_places, *pooled),
    }
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    if arguments.topology:
        write_results(arguments.output, settings=settings, results=compiled_for_tpu(arguments.topology, cases))
        return
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
    rates = {"bytes_per_second": rate, "flops_per_second": flops}
    write_results(arguments.output, settings=settings, rates=rates, results=rows)


if __name__ == "__main__":
    main()
