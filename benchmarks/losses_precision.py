"""Error and time of the covariance term by the precision of its matrix products.

    python -m benchmarks.losses_precision 2048x8192 4096x16384

The losses multiply in full float32 (`Precision.HIGHEST`). A GPU or TPU has faster ways: TensorFloat-32, or float32 as
a sum of bfloat16 parts. Errors are relative to float64 on the host, of the value and of the gradient (maximum entry).
"""

import argparse
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import median_seconds, write_results

_ALGORITHMS = jax.lax.DotAlgorithmPreset
PRECISIONS = {
    "highest": jax.lax.Precision.HIGHEST,
    "high": jax.lax.Precision.HIGH,
    "default": jax.lax.Precision.DEFAULT,
    "tf32": _ALGORITHMS.TF32_TF32_F32,
    "tf32_x3": _ALGORITHMS.TF32_TF32_F32_X3,
    "bf16_x3": _ALGORITHMS.BF16_BF16_F32_X3,
    "bf16_x6": _ALGORITHMS.BF16_BF16_F32_X6,
}


def value_and_gradient(z, product, numpy):
    """The sum of squared off-diagonal covariances of `z` in its Gram form, and the gradient."""
    rows, x = len(z), z - z.mean(axis=0)
    gram, variance = product(x, x.T) / (rows - 1), numpy.sum(x * x, axis=0) / (rows - 1)
    value = numpy.sum(gram * gram) - numpy.sum(variance * variance)
    return value, 4 * (product(gram, x) - x * variance) / (rows - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="+", metavar="NxD")
    parser.add_argument("--seconds", type=float, default=0.5, help="time per precision")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    cases = []
    for shape in arguments.shapes:
        rows, dim = map(int, shape.split("x"))
        z = np.random.default_rng(0).standard_normal((rows, dim), np.float32)
        exact, exact_gradient = value_and_gradient(z.astype(np.float64), np.matmul, np)
        for name, precision in PRECISIONS.items():
            case = {"shape": shape, "precision": name}
            product = partial(jnp.matmul, precision=precision)
            function = jax.jit(partial(value_and_gradient, product=product, numpy=jnp))
            try:
                value, gradient = jax.block_until_ready(function(jnp.asarray(z)))
            except Exception as error:  # an algorithm that this device lacks
                cases.append(case | {"failed": str(error).splitlines()[0][:200]})
                print(cases[-1], flush=True)
                continue
            started = time.perf_counter()
            jax.block_until_ready(function(jnp.asarray(z)))
            repeats = int(np.clip(arguments.seconds / (time.perf_counter() - started), 3, 100))
            difference = np.abs(np.asarray(gradient, np.float64) - exact_gradient).max()
            case |= {
                "milliseconds": 1e3 * median_seconds(function, jnp.asarray(z), repeats=repeats),
                "error_of_value": abs(float(value) - exact) / exact,
                "error_of_gradient": float(difference / np.abs(exact_gradient).max()),
            }
            cases.append(case)
            print(case, flush=True)
        write_results(arguments.output, results=cases)


if __name__ == "__main__":
    main()
