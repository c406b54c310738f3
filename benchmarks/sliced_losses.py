"""SIGReg and VISReg against their textbook forms: time, memory, exactness, and FLOPs per device.

    python -m benchmarks.sliced_losses --output=FILE

Forward and backward in float32, in one run. The contenders take turns on one device, of a process that has eight
simulated ones.

* SIGReg: the textbook form builds two arrays `[batch, slices, knots]`.
* VISReg: the floor is what a device cannot do without: the product of embeddings and directions, and a sort of each
  slice (`jax.lax.sort`); with the gradient also the product back. The textbook form gathers all embeddings and sorts
  along the batch.
* Exactness: value and gradient on eight devices (`shard_map`) against NumPy in float64, relative to the largest entry.
  In float32, VISReg's gradient is that of another order of the rows where two projections are equal to rounding.
* FLOPs per device: arithmetic on array entries in the compiled program, the bodies of loops as often as they run. The
  directions are drawn on every device.
"""

import argparse
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import ndtri
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.losses import Contender, compile_gradient, time_in_turns
from benchmarks.measure import write_results
from vicreg_jax.losses import sigreg, visreg
from vicreg_jax.losses.slices import random_directions
from vicreg_jax.training.hlo import Instruction, Program, arrays_of

einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
ARITHMETIC = {
    *("add", "subtract", "multiply", "divide", "negate", "maximum", "minimum", "abs", "sign"),
    *("sine", "cosine", "sqrt", "rsqrt", "exponential", "log", "log-plus-one", "power", "tanh", "erf"),
    *("compare", "select", "clamp", "and", "or", "xor", "not"),
    *("shift-left", "shift-right-logical", "shift-right-arithmetic"),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=["sigreg", "visreg"], choices=("sigreg", "visreg"))
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--slices", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=10.0, help="time per form")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


def directions_of(z: Array, slices: int) -> Array:
    return random_directions(jax.random.key(0), slices, z)


def textbook_sigreg(z: Array, slices: int) -> Array:
    t = jnp.linspace(0, 3, 17, dtype=z.dtype)
    angles = einsum("nd,md->nm", z, directions_of(z, slices))[..., None] * t
    squares = (jnp.mean(jnp.cos(angles), 0) - jnp.exp(-t * t / 2)) ** 2 + jnp.mean(jnp.sin(angles), 0) ** 2
    return 2 * len(z) * jnp.mean(jnp.trapezoid(squares * jnp.exp(-t * t / 2), t))


def textbook_visreg(z: Array, slices: int) -> Array:
    std = jnp.std(z, axis=0) + 1e-6
    x = einsum("nd,md->nm", (z - z.mean(axis=0)) / lax.stop_gradient(std), directions_of(z, slices))
    quantiles = ndtri(jnp.arange(1, len(z) + 1, dtype=z.dtype) / (len(z) + 1))
    shape = jnp.mean((jnp.sort(x, axis=0) - quantiles[:, None]) ** 2)
    return jnp.mean(z.mean(axis=0) ** 2) + jnp.mean((std - 1) ** 2) + shape


TEXTBOOK = {"sigreg": textbook_sigreg, "visreg": textbook_visreg}


def loss(name: str, slices: int, axis_name: str | None = None) -> Callable[[Array], Array]:
    if name == "sigreg":
        return partial(sigreg, key=jax.random.key(0), slices=slices, axis_name=axis_name)
    return lambda z: visreg(z, key=jax.random.key(0), slices=slices, axis_name=axis_name).loss


def compiled(function: Callable[..., Any], z: Array) -> Contender:
    """Without a gradient."""
    program = jax.jit(function).lower(z).compile()
    facts = {"temporary_mebibytes": program.memory_analysis().temp_size_in_bytes / 2**20}
    return Contender(lambda: program(z), jax.block_until_ready, np.asarray, facts)


def floor(z: Array, slices: int, *, gradient: bool) -> Contender:
    """The product and the sort, and the product back."""
    directions = directions_of(z, slices)

    def products_and_sort(z: Array, directions: Array) -> tuple[Array, ...]:
        ordered = lax.sort(einsum("md,nd->mn", directions, z), dimension=1)
        return (ordered, einsum("mn,md->nd", ordered, directions)) if gradient else (ordered,)

    program = jax.jit(products_and_sort).lower(z, directions).compile()
    return Contender(lambda: program(z, directions), jax.block_until_ready, np.asarray, {})


def measure(name: str, z: Array, slices: int, seconds: float) -> dict[str, Any]:
    ours, textbook = loss(name, slices), TEXTBOOK[name]
    contenders = {
        "ours": compile_gradient(ours, [z], is_loop=True),
        "textbook": compile_gradient(partial(textbook, slices=slices), [z], is_loop=True),
        "ours, forward": compiled(ours, z),
        "textbook, forward": compiled(partial(textbook, slices=slices), z),
    }
    if name == "visreg":
        contenders |= {f"floor{text}": floor(z, slices, gradient=not text) for text in ("", ", forward")}
    for contender in contenders.values():
        contender.wait(contender.call())
    time_in_turns(contenders, seconds)
    facts = {label: contender.facts for label, contender in contenders.items()}
    for text in ("", ", forward"):
        mine = facts[f"ours{text}"]
        for other in ("textbook", "floor"):
            if theirs := facts.get(other + text):
                theirs["times_ours"] = theirs["milliseconds"] / mine["milliseconds"]
                theirs["fastest_times_ours"] = theirs["milliseconds_fastest"] / mine["milliseconds_fastest"]
        facts[f"textbook{text}"]["memory_times_ours"] = (
            facts[f"textbook{text}"]["temporary_mebibytes"] / mine["temporary_mebibytes"]
        )
    return facts


def reference(name: str, z: np.ndarray, directions: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient in NumPy, float64."""
    rows, dim = z.shape
    if name == "sigreg":
        value, gradient = 0.0, np.zeros_like(z)
        x, step = z @ directions.T, 3 / 16
        for t in step * np.arange(1, 17):
            phi = np.exp(-(t**2) / 2)
            weight = step * phi * (1 if t > 2.9 else 2)
            cosine, sine = np.cos(t * x), np.sin(t * x)
            from_phi, mean_sine = cosine.mean(axis=0) - phi, sine.mean(axis=0)
            value += rows * weight * np.mean(from_phi**2 + mean_sine**2)
            gradient += 2 / len(directions) * weight * t * (mean_sine * cosine - from_phi * sine) @ directions
        return value, gradient
    mean, deviation = z.mean(axis=0), z.std(axis=0)
    std = deviation + 1e-6
    x = (z - mean) / std @ directions.T
    quantiles = np.array([NormalDist().inv_cdf(i / (rows + 1)) for i in range(1, rows + 1)])
    difference = x - quantiles[np.argsort(np.argsort(x, axis=0), axis=0)]
    by_shape = 2 / x.size * difference @ directions / std
    gradient = 2 * mean / (dim * rows) + 2 / dim * (std - 1) * (z - mean) / (rows * deviation)
    value = np.mean(mean**2) + np.mean((std - 1) ** 2) + np.mean(difference**2)
    return float(value), gradient + by_shape - by_shape.mean(axis=0)


def exactness(name: str, z: np.ndarray, slices: int) -> dict[str, dict[str, float]]:
    """Largest differences from NumPy on eight devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    results = {}
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype == np.float64):
            directions = np.asarray(directions_of(jnp.asarray(z, dtype), slices), np.float64)
            value, gradient = reference(name, z.astype(dtype).astype(np.float64), directions)
            mapped = jax.shard_map(loss(name, slices, "data"), mesh=mesh, in_specs=P("data"), out_specs=P())
            actual, actual_gradient = jax.jit(jax.value_and_grad(mapped))(z.astype(dtype))
            difference = np.abs(np.asarray(actual_gradient, np.float64) - gradient).max() / np.abs(gradient).max()
            results[dtype.__name__] = {
                "value": float(abs(float(actual) - value) / value),
                "gradient": float(difference),
            }
    return results


def arithmetic(program: Program) -> float:
    """Operations on array entries of one execution."""
    total = 0.0
    for each in program.executed():
        for instruction in inside(program, each.instruction):
            total += each.times * operations(program, instruction)
    return total


def inside(program: Program, instruction: Instruction) -> list[Instruction]:
    """The instruction, or those of a fusion."""
    called = instruction.attribute("calls") if instruction.opcode == "fusion" else []
    return [inner for name in called for each in program.computations[name] for inner in inside(program, each)] or [
        instruction
    ]


def operations(program: Program, instruction: Instruction) -> float:
    """Of a sort, none: only arithmetic counts."""
    entries = sum(math.prod(dimensions(array.shape)) for array in arrays_of(instruction.type))
    if instruction.opcode in ARITHMETIC:
        return entries
    if instruction.opcode not in ("dot", "reduce"):
        return 0
    shapes = {each.name: each.type for body in program.computations.values() for each in body}
    operand = dimensions(arrays_of(shapes[instruction.operands[0]])[0].shape)
    if instruction.opcode == "reduce":
        return math.prod(operand)
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]+)\}", instruction.rest)
    assert contracted is not None
    return 2 * entries * math.prod(operand[int(axis)] for axis in contracted[1].split(","))


def dimensions(shape: str) -> list[int]:
    """`f32[8,128]` -> 8 and 128."""
    return [int(length) for length in re.findall(r"\d+", shape.partition("[")[2])]


def flops(name: str, shape: tuple[int, int], slices: int, devices: int, mapping: str) -> float:
    """Arithmetic of one device, of the value and its gradient."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    sharded = NamedSharding(mesh, P("data"))
    gradient = jax.value_and_grad(loss(name, slices, "data" if mapping == "shard_map" else None))
    if mapping == "shard_map":
        gradient = jax.shard_map(gradient, mesh=mesh, in_specs=P("data"), out_specs=(P(), P("data")))
    outputs = (NamedSharding(mesh, P()), sharded)
    z = jax.ShapeDtypeStruct(shape, jnp.float32)
    text = jax.jit(gradient, in_shardings=sharded, out_shardings=outputs).lower(z).compile().as_text()
    return arithmetic(Program(text))


def main() -> None:
    arguments = parse()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    shape = arguments.batch, arguments.dim
    z = np.random.default_rng(0).normal(size=shape)
    results: dict[str, Any] = {"batch": arguments.batch, "dim": arguments.dim, "slices": arguments.slices}
    for name in arguments.losses:
        forms = measure(name, jnp.asarray(z, jnp.float32), arguments.slices, arguments.seconds)
        print(name)
        for label, facts in forms.items():
            print(f"  {label:20}", {key: round(value, 3) for key, value in facts.items()}, flush=True)
        exact = exactness(name, z, arguments.slices)
        print("  against NumPy", exact, flush=True)
        counts: dict[str, Any] = {}
        for mapping in ("jit", "shard_map"):
            counts[mapping] = {
                devices: flops(name, shape, arguments.slices, devices, mapping) / 1e9 for devices in (1, 2, 4, 8)
            }
            counts[f"{mapping}, fraction of one device on 8"] = counts[mapping][8] / counts[mapping][1]
        print("  GFLOP per device", counts, flush=True)
        results[name] = {"forms": forms, "difference_from_numpy": exact, "gigaflop_per_device": counts}
        write_results(arguments.output, results=results)


if __name__ == "__main__":
    main()
