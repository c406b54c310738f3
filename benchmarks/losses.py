"""Time and memory of the losses, forward and backward, against textbook forms with D x D and 2N x 2N matrices.

    python -m benchmarks.losses --covariance 256x8192 --dtypes float32 --output=FILE

Compares ours, the textbook form in JAX, and the same mathematics in PyTorch if it is installed, eager and compiled, in
one run and in full float32. The floor, for N < D, is the two N x N x D products of each view, alternating with ours.
Temporary memory and FLOPs are those of the compiled program; for PyTorch memory only, on a GPU only. XLA counts the
body of a loop once, so the contrastive losses, which contain a loop, have no FLOPs. `benchmarks/losses_counts.py`
counts over several devices.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks.losses_textbook import TEXTBOOK
from benchmarks.measure import environment
from vicreg_jax.losses import (
    barlow_twins_loss,
    covariance_term,
    debiased_contrastive_loss,
    info_nce_loss,
    nt_xent_loss,
    vicreg_loss,
)

OURS = {
    "covariance": covariance_term,
    "vicreg": lambda z_a, z_b, **options: vicreg_loss(z_a, z_b, **options).loss,
    "barlow_twins": lambda z_a, z_b, **options: barlow_twins_loss(z_a, z_b, **options).loss,
    "nt_xent": nt_xent_loss,
    "debiased": debiased_contrastive_loss,
    "info_nce": info_nce_loss,
}
CONTRASTIVE = ("nt_xent", "debiased", "info_nce")
SHAPES = {  # sized for two CPU cores and a few minutes
    "covariance": ["256x8192", "2048x8192"],
    "vicreg": ["256x8192"],
    "barlow_twins": ["256x8192"],
    "nt_xent": ["2048x128"],
    "debiased": ["2048x128"],
    "info_nce": ["256x128"],
}


class Contender(NamedTuple):
    """One implementation of a loss and its gradients.

    Attributes:
        call: computes `(value, gradients)`; may return before the device is done.
        wait: waits for the device, given the output of `call`.
        to_numpy: converts an array of the output.
        facts: what is reported.
    """

    call: Callable[[], Any]
    wait: Callable[[Any], Any]
    to_numpy: Callable[[Any], np.ndarray]
    facts: dict[str, Any]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for loss, shapes in SHAPES.items():
        parser.add_argument(f"--{loss}", nargs="*", default=shapes, metavar="NxD", help=" ".join(shapes))
    parser.add_argument("--negatives", type=int, default=65536, help="keys in the queue of info_nce")
    parser.add_argument(
        "--blocked", default="8192x128", metavar="NxD", help="shape for nt_xent in blocks, without contenders"
    )
    parser.add_argument("--block_size", type=int, default=256)
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=("float32", "bfloat16", "float16"))
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="time per form; at least 3 calls (2 if they take longer)"
    )
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


def embeddings(loss: str, batch: int, dim: int, negatives: int) -> list[np.ndarray]:
    count = 1 if loss == "covariance" else 2
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(key, (batch, dim)) for key in keys[:count]]
    if loss == "info_nce":
        arrays.append(jax.random.normal(keys[2], (negatives, dim)))
    return [np.array(array) for array in arrays]


def compile_gradient(function: Callable[..., Array], arrays: list[Array], *, is_loop: bool) -> Contender:
    """Compiles value and gradients with respect to the first two arrays; runs nothing."""
    by = tuple(range(min(len(arrays), 2)))
    compiled = jax.jit(jax.value_and_grad(function, by)).lower(*arrays).compile()
    memory = compiled.memory_analysis()
    facts = {"temporary_mebibytes": memory.temp_size_in_bytes / 2**20}
    if not is_loop:
        facts["gigaflop"] = compiled.cost_analysis()["flops"] / 1e9
    needed, free = memory.temp_size_in_bytes + memory.output_size_in_bytes, free_bytes()
    if needed > free:
        raise MemoryError(f"needs {needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free")
    return Contender(lambda: compiled(*arrays), jax.block_until_ready, np.asarray, facts)


def free_bytes() -> float:
    """Free memory of the device, in bytes."""
    if stats := jax.devices()[0].memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return float("inf")
    return 1024 * int(re.search(r"MemAvailable:\s+(\d+)", meminfo.read_text()).group(1))


def floor(arrays: list[Array]) -> Contender:
    """The two matrix products of each view, in float32."""
    product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    raised = [array.astype(jnp.float32) for array in arrays]
    compiled = jax.jit(lambda arrays: [product(product(x, x.T), x) for x in arrays]).lower(raised).compile()
    facts = {"gigaflop": sum(4 * len(x) * x.size for x in raised) / 1e9}
    return Contender(lambda: compiled(raised), jax.block_until_ready, np.asarray, facts)


def torch_contender(loss: str, arrays: list[np.ndarray], dtype: str, *, compiled: bool) -> Contender:
    from benchmarks import losses_torch  # only if torch is installed

    call, facts = losses_torch.value_and_gradient(loss, arrays, dtype, compiled=compiled)
    return Contender(call, lambda _: losses_torch.wait(), losses_torch.to_numpy, facts)


def time_in_turns(contenders: dict[str, Contender], seconds: float) -> None:
    """Adds each contender's median time to its facts, over rounds in which all take turns and so share the noise.

    All contenders have been called before. A turn is one call on a CPU. On an accelerator it is as many calls as fill
    20 ms, since calls return before the device is done and a short one would measure the wait only.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    calls = dict.fromkeys(contenders, 1)

    def turn(name: str) -> float:
        contender = contenders[name]
        start = time.perf_counter()
        for _ in range(calls[name]):
            results = contender.call()
        contender.wait(results)
        return (time.perf_counter() - start) / calls[name]

    if jax.devices()[0].platform != "cpu":
        calls |= {name: max(1, round(0.02 / turn(name))) for name in contenders}

    def wants_a_turn(name: str) -> bool:
        times = taken[name]
        if len(times) < 2 or (len(times) < 3 and times[0] < seconds):
            return True
        return sum(times) * calls[name] < seconds and len(times) < 100

    while waiting := [name for name in contenders if wants_a_turn(name)]:
        for name in waiting:
            taken[name].append(turn(name))
    for name, times in taken.items():
        contenders[name].facts.update(
            milliseconds=statistics.median(times) * 1e3,
            milliseconds_fastest=min(times) * 1e3,
            milliseconds_slowest=max(times) * 1e3,
            turns=len(times),
        )


def gradient_difference(contender: Contender, ours: Contender) -> float:
    """Maximum difference from our gradient, relative to its maximum entry."""
    (_, theirs), (_, expected) = contender.call(), ours.call()
    pairs = [(contender.to_numpy(a), ours.to_numpy(b)) for a, b in zip(theirs, expected, strict=True)]
    pairs = [(a.astype(np.float32), b.astype(np.float32)) for a, b in pairs]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def measure(loss: str, shape: str, dtype: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures one loss at one shape: the facts of each form, and their ratio to ours."""
    batch, dim = map(int, shape.split("x"))
    host_arrays = embeddings(loss, batch, dim, arguments.negatives)
    arrays = [jnp.asarray(array, dtype) for array in host_arrays]
    case = {"loss": loss, "batch": batch, "dim": dim, "dtype": dtype}
    if loss == "info_nce":
        case["negatives"] = arguments.negatives
    is_contrastive = loss in CONTRASTIVE
    ours = compile_gradient(OURS[loss], arrays, is_loop=is_contrastive)
    first = {"ours": ours}
    if batch < dim and not is_contrastive:
        first["floor"] = floor(arrays)
    for contender in first.values():
        contender.wait(contender.call())
    time_in_turns(first, arguments.seconds)

    makers = {
        name: lambda function=function: compile_gradient(function, arrays, is_loop=False)
        for name, function in TEXTBOOK[loss].items()
    }
    if importlib.util.find_spec("torch"):
        makers["PyTorch, eager"] = lambda: torch_contender(loss, host_arrays, dtype, compiled=False)
        makers["PyTorch, compiled"] = lambda: torch_contender(loss, host_arrays, dtype, compiled=True)
    others, failures = {}, {}
    for name, make in makers.items():
        try:
            others[name] = make()
            others[name].facts["gradient_difference"] = gradient_difference(others[name], ours)
            if is_contrastive:
                others[name].facts.pop("gigaflop", None)
        except Exception as error:
            others.pop(name, None)
            failures[name] = {"failed": reason(error)}
            if name == "textbook":  # a form too large for JAX is too large for PyTorch too
                break
    time_in_turns(others, arguments.seconds)

    forms = {name: contender.facts for name, contender in (first | others).items()}
    for facts in (forms[name] for name in others):
        facts["times_ours"] = facts["milliseconds"] / forms["ours"]["milliseconds"]
        if "temporary_mebibytes" in facts and forms["ours"]["temporary_mebibytes"]:
            facts["memory_times_ours"] = facts["temporary_mebibytes"] / forms["ours"]["temporary_mebibytes"]
    if "floor" in forms:
        forms["ours"]["times_the_floor"] = forms["ours"]["milliseconds"] / forms["floor"]["milliseconds"]
    return case | {"forms": forms | failures}


def reason(error: Exception) -> str:
    """The type and the first line of an error, with file paths removed."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {re.sub(r'/[^ ]+', '...', lines[0])[:200]}"


def measure_blocked(shape: str, dtype: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures nt_xent in blocks, for a batch whose 2N x 2N matrix is large."""
    batch, dim = map(int, shape.split("x"))
    arrays = [jnp.asarray(array, dtype) for array in embeddings("nt_xent", batch, dim, 0)]
    ours = compile_gradient(partial(nt_xent_loss, block_size=arguments.block_size), arrays, is_loop=True)
    ours.wait(ours.call())
    time_in_turns({"ours": ours}, arguments.seconds)
    case = {"loss": "nt_xent", "batch": batch, "dim": dim, "dtype": dtype, "block_size": arguments.block_size}
    return case | ours.facts | {"whole_matrix_mebibytes": 4 * (2 * batch) ** 2 / 2**20}


def show(case: dict[str, Any]) -> None:
    print(f"\n{case['loss']} {case['batch']} x {case['dim']} {case['dtype']}", flush=True)
    columns = {
        "ms": ("milliseconds", "10.2f"),
        "x ours": ("times_ours", "9.2f"),
        "x floor": ("times_the_floor", "9.2f"),
        "temporary MiB": ("temporary_mebibytes", "15.1f"),
        "x ours ": ("memory_times_ours", "9.1f"),
        "GFLOP": ("gigaflop", "10.2f"),
    }
    widths = {title: int(form.split(".")[0]) for title, (_, form) in columns.items()}
    print(f"{'':30}" + "".join(f"{title:>{width}}" for title, width in widths.items()))
    for name, facts in case["forms"].items():
        cells = [
            f"{facts[key]:{form}}" if key in facts else " " * widths[title] for title, (key, form) in columns.items()
        ]
        print(f"{name:30}" + facts.get("failed", "".join(cells)), flush=True)


def main() -> None:
    arguments = parse()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the GPU
    # Let PyTorch's threads sleep while they wait: spinning threads steal cores from the others on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    facts = environment()
    if importlib.util.find_spec("torch"):
        facts["versions"]["torch"] = importlib.metadata.version("torch")
    precision = "lax.Precision.HIGHEST, in PyTorch 'highest': float32 products are float32 on a GPU too, not TF32"
    results: dict[str, Any] = {"precision": precision, "cases": [], "blocked": []}

    def keep(kind: str, row: dict[str, Any]) -> None:
        results[kind].append(row)
        if arguments.output:
            arguments.output.write_text(json.dumps(facts | {"results": results}, indent=2) + "\n")

    for dtype in arguments.dtypes:
        for loss in SHAPES:
            for shape in getattr(arguments, loss):
                row = measure(loss, shape, dtype, arguments)
                keep("cases", row)
                show(row)
        if arguments.blocked:
            row = measure_blocked(arguments.blocked, dtype, arguments)
            keep("blocked", row)
            print(
                f"\nnt_xent {arguments.blocked} {dtype} in blocks of {arguments.block_size}: "
                f"{row['milliseconds']:.0f} ms, {row['temporary_mebibytes']:.0f} MiB temporary; the "
                f"2N x 2N matrix alone would take {row['whole_matrix_mebibytes']:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
