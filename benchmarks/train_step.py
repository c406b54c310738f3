"""Throughput of the whole train step, and its distance from the machine's floor.

    python -m benchmarks.train_step --model=resnet50 --image_size=224 --canvas=384 --batch=256 --precision=bfloat16

The step includes views, both forward passes, loss, gradient, LARS and metrics, on images of noise. XLA counts the FLOPs
and bytes of the compiled program. The floor is the longer of FLOPs at the measured rate of matrix products and bytes at
the measured memory rate, both measured in the same run.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import write_results
from benchmarks.roofline import bytes_per_second, matmul_flops_per_second, matrix_flops
from vicreg_jax.augment import Preprocessing, normalize, recipe
from vicreg_jax.evaluation.diagnostics import collapse_monitor
from vicreg_jax.methods import VICReg
from vicreg_jax.models import Head, create_backbone, fastest_on
from vicreg_jax.optim import OptimizerOptions, create_optimizer, warmup_cosine
from vicreg_jax.training import step
from vicreg_jax.training.mesh import batch_sharding, make_mesh, state_shardings
from vicreg_jax.training.plan import Plan
from vicreg_jax.training.profile import StepProgram, by_part, stop_trace
from vicreg_jax.training.state import init_state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the step."""
    parser.add_argument("--model", default="resnet_tiny")
    parser.add_argument("--stem", default="small", choices=("imagenet", "small"))
    parser.add_argument("--image_size", type=int, default=8)
    parser.add_argument("--canvas", type=int, default=8, help="side of the decoded images")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--batch", type=int, default=128, help="images over all devices")
    parser.add_argument("--head_dims", type=int, nargs="+", default=[512, 512, 512])
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--cpu_devices", type=int, default=1, help="number of simulated CPU devices")
    parser.add_argument("--optimizer", default="lars")
    parser.add_argument("--log_every", type=int, default=50, help="steps between runs of the collapse monitor")
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--given_views", action="store_true", help="images are the views: no augmentation")
    parser.add_argument("--compiler_options", nargs="*", default=[], metavar="NAME=VALUE", help="for XLA")
    parser.add_argument("--output", type=Path, help="JSON file to write")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--steps", type=int, default=20, help="steps per timed block")
    parser.add_argument("--repeats", type=int, default=5, help="timed blocks")
    parser.add_argument("--profile", action="store_true", help="also trace a block: time by part of the step")
    return parser.parse_args()


def traced_step(arguments: argparse.Namespace) -> tuple[jax.stages.Traced, Any, Any]:
    """The traced step, a function that makes the initial state, and one that makes a batch of noise."""
    if arguments.given_views:
        step.make_views = _given_views
    mesh = make_mesh(fsdp=arguments.fsdp)
    dtype = jnp.dtype(arguments.precision)
    backbone = create_backbone(
        arguments.model, width=arguments.width, stem=arguments.stem, dtype=dtype, remat=arguments.remat
    )
    method = VICReg(
        fastest_on(mesh.devices.flat[0].platform, backbone),
        Head(tuple(arguments.head_dims), dtype=dtype),
        microbatches=arguments.microbatches,
    )
    schedule = warmup_cosine(0.2, arguments.batch, steps_per_epoch=100, warmup_epochs=1, epochs=10)
    optimizer = create_optimizer(OptimizerOptions(arguments.optimizer), schedule)
    init = partial(
        init_state,
        method=method,
        optimizer=optimizer,
        image_shape=(arguments.image_size, arguments.image_size, arguments.channels),
        num_classes=10,
    )
    shapes = jax.eval_shape(init, jax.random.key(0))
    shardings = state_shardings(mesh, shapes)
    train_step = step.TrainStep(
        method=method,
        optimizer=optimizer,
        schedule=schedule,
        views=recipe(arguments.recipe),
        preprocessing=Preprocessing(arguments.image_size, mean=(0.5,), std=(0.25,)),
        monitor=collapse_monitor,
        plan=Plan(
            total_steps=1000,
            steps_per_epoch=100,
            batch_size=arguments.batch,
            log_every=arguments.log_every,
            save_every=1000,
        ),
        mesh=mesh,
    )
    rows, canvas = arguments.batch, arguments.canvas
    random = np.random.default_rng(0)
    batch = {
        "image": random.integers(0, 256, (rows, canvas, canvas, arguments.channels), np.uint8),
        "aspect_ratio": np.full(rows, 4 / 3, np.float32),
        "label": random.integers(0, 10, rows, np.int32),
    }
    traced = step.trace_step(train_step, mesh=mesh, state=shapes, shardings=shardings, batch=batch)
    make_state = partial(jax.jit(init, out_shardings=shardings), jax.random.key(0))
    return traced, make_state, partial(jax.device_put, batch, batch_sharding(mesh))


def _given_views(key, images, aspect_ratio, views, preprocessing, *, mesh):
    """In place of `make_views`: the images, normalized, in another order for each view.

    The compiler would make one forward pass of two views that are the same.
    """
    normalized = normalize(images / np.float32(255), preprocessing.mean, preprocessing.std)
    return tuple(jnp.roll(normalized, index, axis=0) for index in range(len(views)))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    start = time.perf_counter()
    traced, make_state, make_batch = traced_step(arguments)
    options = dict(option.split("=", 1) for option in arguments.compiler_options)
    compiled = traced.lower().compile(compiler_options=options)
    compile_seconds = time.perf_counter() - start
    state, batch = make_state(), make_batch()
    for _ in range(3):
        state, metrics = compiled(state, batch)
    jax.block_until_ready(state)
    seconds = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        for _ in range(arguments.steps):
            state, metrics = compiled(state, batch)
        jax.block_until_ready(state)
        seconds.append((time.perf_counter() - start) / arguments.steps)
    assert np.isfinite(float(metrics["loss"]))

    profile = {}
    if arguments.profile:
        with tempfile.TemporaryDirectory() as scratch:
            jax.profiler.start_trace(scratch)
            for _ in range(arguments.steps):
                state, metrics = compiled(state, batch)
            jax.block_until_ready(state)
            events = stop_trace(Path(scratch))
        profile = {"profile": by_part(events, StepProgram.of(compiled.as_text() or ""), arguments.steps)}
    step_seconds = statistics.median(seconds)
    flops = matrix_flops(traced.jaxpr) / jax.device_count()
    traffic = compiled.cost_analysis()["bytes accessed"]
    peak_flops, peak_bytes = matmul_flops_per_second(arguments.precision), bytes_per_second()
    floor = max(flops / peak_flops, traffic / peak_bytes)
    memory = compiled.memory_analysis()
    return {
        "step_milliseconds": step_seconds * 1e3,
        "step_milliseconds_fastest": min(seconds) * 1e3,
        "step_milliseconds_slowest": max(seconds) * 1e3,
        "images_per_second": arguments.batch / step_seconds,
        "compile_seconds": compile_seconds,
        "gigaflop_per_step_and_device": flops / 1e9,
        "gigabytes_per_step_and_device": traffic / 1e9,
        "memory_mebibytes": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20,
        "measured_matmul_teraflops": peak_flops / 1e12,
        "measured_memory_gigabytes_per_second": peak_bytes / 1e9,
        "share_of_matmul_rate": flops / step_seconds / peak_flops,
        "floor_milliseconds": floor * 1e3,
        "times_the_floor": step_seconds / floor,
        **profile,
    }


def main() -> None:
    arguments = parse()
    jax.config.update("jax_num_cpu_devices", arguments.cpu_devices)
    results = measure(arguments)
    for name, value in results.items():
        if name != "profile":
            print(f"{name:42s} {value:12.4g}")
    for part, milliseconds in results.get("profile", {"milliseconds": {}})["milliseconds"].items():
        print(f"{part:42s} {milliseconds:12.4g} ms")
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    write_results(arguments.output, settings=settings, results=results)


if __name__ == "__main__":
    main()
