"""Time per step of LocoProp and of Adam on the deep autoencoder, alternating, relative to each method's floor.

    python -m benchmarks.locoprop_step

Compares M, S in Gram form where that is cheaper, S always through the batch, and Adam, whose step is one forward and
one backward pass. The floor is the FLOPs of the matrix products at the rate of a large one, measured in the same run.
"""

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np

from benchmarks.locoprop_trial import BATCH, MODEL, training
from benchmarks.measure import write_results
from benchmarks.roofline import matmul_flops_per_second
from vicreg_jax.locoprop import LocoPropOptions, local_flops, locoprop, reconstruction_loss

SETTINGS = {
    "adam": ("adam", {"momentum": 0.9}),
    "m": ("m", {}),
    "s": ("s", {}),
    "s through the batch": ("s", {"local_form": "plain"}),
}


def gigaflop(method: str, rows: jax.Array, local_form: str = "auto", **_: float) -> float:
    """The GFLOP of a step's matrix products."""
    variant = "m" if method == "adam" else method
    options = LocoPropOptions(variant=variant, local_form=local_form, output_transfer="sigmoid")
    built = locoprop(MODEL, reconstruction_loss, options)
    layers = built.layers((rows, rows))
    sizes = list(pairwise([rows.shape[1], *(layer.pre_activation.shape[1] for layer in layers)]))
    product = [2 * BATCH * inputs * outputs for inputs, outputs in sizes]
    if method == "adam":
        return (3 * sum(product) - product[0]) / 1e9  # no gradient with respect to the images
    local = [local_flops(BATCH, inputs + 1, outputs, local_steps=10) for inputs, outputs in sizes]
    own = sum(getattr(flops, layer.form) for layer, flops in zip(layers, local, strict=True))
    return (own + 2 * sum(product) - product[0]) / 1e9  # without those with respect to images and weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="steps per timing")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    key = jax.random.key(0)
    rows = jax.random.uniform(key, (BATCH, 784))
    step, state, seconds = {}, {}, {name: [] for name in SETTINGS}
    for name, (method, settings) in SETTINGS.items():
        built = training(method, lambda step: 1e-5, dict(settings))
        step[name] = built.step
        state[name] = built.step(built.init(key, rows), rows, key)
    for _ in range(arguments.repeats):
        for name in SETTINGS:
            jax.block_until_ready(state[name])
            start = time.perf_counter()
            for _ in range(arguments.steps):
                state[name] = step[name](state[name], rows, key)
            jax.block_until_ready(state[name])
            seconds[name].append((time.perf_counter() - start) / arguments.steps)
    rate = matmul_flops_per_second("float32")
    table = {}
    for name in SETTINGS:
        method, settings = SETTINGS[name]
        took, flops = statistics.median(seconds[name]), gigaflop(method, rows, **settings)
        table[name] = {
            "milliseconds": 1e3 * took,
            "over_adam": float(np.median(np.divide(seconds[name], seconds["adam"]))),
            "gigaflop": flops,
            "over_floor": took / (flops * 1e9 / rate),
        }
        print(name, {key: round(value, 2) for key, value in table[name].items()})
    write_results(arguments.output, batch=BATCH, measured_matmul_teraflops=rate / 1e12, steps=table)


if __name__ == "__main__":
    main()
