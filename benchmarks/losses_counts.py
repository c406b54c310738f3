"""Counted costs of the losses: FLOPs per device, collectives, and the share of a train step.

    python -m benchmarks.losses_counts --output=FILE

Compiles value and gradient for simulated CPU devices with the batch split over them, and runs nothing. FLOPs are XLA's
count of one device's program; collectives are parsed from its text. The size of a collective is the size of the whole
array that it moves or produces, relative to all gathered embeddings. Contrastive losses treat the rows of a device as
one block: XLA counts the body of a loop once, and this way the loop has equally many iterations on any number of
devices.

The share of the train step is the share of `vicreg_loss` in the forward and backward pass of both views through
ResNet-50 and expander, in FLOPs before compilation. Augmentation and optimizer would lower it.
"""

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.losses import CONTRASTIVE, OURS
from benchmarks.losses_textbook import TEXTBOOK
from benchmarks.measure import write_results
from vicreg_jax.methods import VICReg
from vicreg_jax.models import Head, create_backbone

COLLECTIVE = re.compile(r"= (.+?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--devices", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of devices; the first is the reference"
    )
    parser.add_argument("--shapes", nargs="*", default=["256x8192", "2048x512"], metavar="NxD")
    parser.add_argument("--contrastive_shapes", nargs="*", default=["2048x128"], metavar="NxD")
    parser.add_argument("--negatives", type=int, default=65536, help="keys in the queue of info_nce")
    parser.add_argument("--no_step", action="store_true", help="skip the share of the train step")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


def compile_on(devices: int, loss: str, mapping: str, shapes: list[jax.ShapeDtypeStruct]) -> jax.stages.Compiled:
    """Value and gradients with respect to the first two arrays, split over the devices; a third array is replicated."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    function: Callable[..., Array] = partial(OURS[loss], axis_name="data" if mapping == "shard_map" else None)
    if loss in CONTRASTIVE:
        rows = len(shapes[0]) if mapping == "jit" else len(shapes[0]) // devices
        function = partial(function, block_size=rows)
    by = tuple(range(min(len(shapes), 2)))
    split = tuple(P("data") if i in by else P() for i in range(len(shapes)))
    gradient = jax.value_and_grad(function, by)
    if mapping == "shard_map":
        gradient = jax.shard_map(gradient, mesh=mesh, in_specs=split, out_specs=(P(), split[: len(by)]))
    inputs = tuple(NamedSharding(mesh, spec) for spec in split)
    outputs = (NamedSharding(mesh, P()), inputs[: len(by)])
    return jax.jit(gradient, in_shardings=inputs, out_shardings=outputs).lower(*shapes).compile()


def largest_collective(compiled: jax.stages.Compiled, devices: int) -> tuple[int, str]:
    """The bytes and the kind of the largest collective."""
    found = [(0, "none")]
    for results, kind in COLLECTIVE.findall(compiled.as_text()):
        size = 0
        for dtype, dimensions in re.findall(r"\b([a-z]+\d+)\[([\d,]*)\]", results):
            entries = 1
            for length in filter(None, dimensions.split(",")):
                entries *= int(length)
            size += entries * int(re.sub(r"\D", "", dtype)) // 8
        found.append((size * (devices if kind == "reduce-scatter" else 1), kind))
    return max(found)


def count(loss: str, shape: str, arguments: argparse.Namespace) -> dict[str, Any]:
    batch, dim = map(int, shape.split("x"))
    shapes = [jax.ShapeDtypeStruct((batch, dim), jnp.float32)] * (1 if loss == "covariance" else 2)
    gathered = sum(4 * s.size for s in shapes)
    case: dict[str, Any] = {"loss": loss, "batch": batch, "dim": dim, "gathered_embeddings_bytes": gathered}
    if loss == "info_nce":
        shapes = [*shapes, jax.ShapeDtypeStruct((arguments.negatives, dim), jnp.float32)]
        case["negatives"] = arguments.negatives
    print(f"\n{loss} {shape}\n{'':12}{'devices':>9}{'GFLOP each':>12}{'fraction':>9}  largest collective / gathered")
    for mapping in ("jit", "shard_map"):
        case[mapping] = rows = []
        for devices in arguments.devices:
            compiled = compile_on(devices, loss, mapping, shapes)
            flops = compiled.cost_analysis()["flops"]
            row = {"devices": devices, "gigaflop_per_device": flops / 1e9}
            row["fraction"] = row["gigaflop_per_device"] / (rows or [row])[0]["gigaflop_per_device"]
            size, kind = largest_collective(compiled, devices) if devices > 1 else (0, "none")
            row |= {"largest_collective": kind, "largest_collective_bytes": size}
            row["largest_collective_of_gathered"] = size / gathered
            rows.append(row)
            print(
                f"{mapping:12}{devices:9}{row['gigaflop_per_device']:12.3f}{row['fraction']:9.3f}  "
                f"{kind}, {row['largest_collective_of_gathered']:.2f}",
                flush=True,
            )
    return case


def share_of_step(batch: int = 256, image_size: int = 224, head_dims: tuple[int, ...] = (8192,) * 3) -> dict[str, Any]:
    """The share of `vicreg_loss`, and of its textbook form, in the FLOPs of a forward and backward pass."""

    def teraflop(function: Callable[..., Any], *shapes: Any, **options: Any) -> float:
        return jax.jit(jax.value_and_grad(function, **options)).lower(*shapes).cost_analysis()["flops"] / 1e12

    method = VICReg(create_backbone("resnet50", stem="imagenet"), Head(head_dims))
    images = jax.ShapeDtypeStruct((batch, image_size, image_size, 3), jnp.float32)
    key = jax.random.key(0)
    variables = jax.eval_shape(method.init, key, (images, images))
    z = jax.ShapeDtypeStruct((batch, head_dims[-1]), jnp.float32)
    step = teraflop(method.loss, *variables, (images, images), key, has_aux=True)
    ours = teraflop(OURS["vicreg"], z, z, argnums=(0, 1))
    textbook = teraflop(TEXTBOOK["vicreg"]["textbook"], z, z, argnums=(0, 1))
    return {
        "model": "resnet50",
        "batch": batch,
        "image_size": image_size,
        "head_dims": head_dims,
        "teraflop_of_step": step,
        "teraflop_of_loss": ours,
        "share": ours / step,
        "share_of_textbook_form": textbook / (step - ours + textbook),
    }


def main() -> None:
    arguments = parse()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(arguments.devices))
    cases = []
    for loss in OURS:
        shapes = arguments.contrastive_shapes if loss in CONTRASTIVE else arguments.shapes
        cases += [count(loss, shape, arguments) for shape in shapes]
    results: dict[str, Any] = {"cases": cases}
    if not arguments.no_step:
        results["training_step"] = row = share_of_step()
        print(f"\nvicreg_loss of a ResNet-50 step: {row['share']:.2%}; as textbook {row['share_of_textbook_form']:.2%}")
    write_results(arguments.output, results=results)


if __name__ == "__main__":
    main()
