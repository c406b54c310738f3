"""Does it run on this device, and are the losses right there?

    python -m benchmarks.correctness --output=benchmarks/results/gpu_correctness.json

A run of the digits config by the command line, with its exit code and results; and the losses' tests of values and
gradients against float64 references, in float32, bfloat16 and float64, on the default device.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks.measure import write_results

_TESTS = ("test_vicreg.py", "test_covariance.py", "test_barlow_twins.py", "test_nt_xent.py", "test_info_nce.py")
_CHOSEN = "values_and_gradients or value_and_gradient or 16_bit"


def digits(epochs: int) -> dict[str, Any]:
    """A run of launch.py: exit code, seconds and summary."""
    with tempfile.TemporaryDirectory() as scratch:
        workdir = Path(scratch) / "digits"
        line = [sys.executable, "launch.py", "--config=configs/digits.py", f"--workdir={workdir}"]
        started = time.perf_counter()
        done = subprocess.run([*line, f"--config.train.epochs={epochs}"], check=False, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        print(done.stdout[-2000:], done.stderr[-2000:], sep="\n", flush=True)
        summary = workdir / "summary.json"
        return {
            "exit_code": done.returncode,
            "seconds": seconds,
            "output": done.stdout[-2000:].splitlines(),
            "error": done.stderr[-2000:].splitlines(),
            "summary": json.loads(summary.read_text()) if summary.exists() else None,
        }


def losses(files: list[str]) -> dict[str, Any]:
    """The tests on the default device: how many passed, and the lines of those that failed."""
    root = Path(__file__).parents[1]
    workers = "0" if jax.devices()[0].platform == "cpu" else "6"  # their time is compilation
    options = f"-q -n {workers} -p no:cacheprovider -p no:benchmark --tb=line".split()
    line = [sys.executable, "-m", "pytest", *options, "-k", _CHOSEN]
    variables = os.environ | {"JAX_PLATFORMS": _platforms()}
    started = time.perf_counter()
    command = [*line, *(f"tests/losses/{file}" for file in files)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root, env=variables)
    print(done.stdout[-3000:], done.stderr[-1000:], sep="\n", flush=True)
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    failures = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
    return {
        "exit_code": done.returncode,
        "seconds": time.perf_counter() - started,
        "command": " ".join(["python", *command[1:]]),
        **counts,
        "failures": failures[:50],
    }


def _platforms() -> str:
    platform = jax.devices()[0].platform
    return "cpu" if platform == "cpu" else "cuda,cpu" if platform == "gpu" else f"{platform},cpu"


def main() -> int:
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the processes share the device
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100, help="of the run")
    parser.add_argument("--tests", nargs="+", default=list(_TESTS), help="files of tests/losses")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"digits": digits(arguments.epochs)}
    write_results(arguments.output, **found)
    found["losses"] = losses(arguments.tests)
    write_results(arguments.output, **found)
    return max(found["digits"]["exit_code"], found["losses"]["exit_code"])


if __name__ == "__main__":
    sys.exit(main())
