"""Shared by all benchmarks: median times, and the environment they were measured in.

JAX is imported where it is used: `describe` also serves environments without it.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def median_seconds(function: Callable[..., Any], *args: Any, repeats: int, warmup: int = 1) -> float:
    """Median wall time of `function(*args)`, each including the wait for the devices; `warmup` calls are not timed."""
    import jax

    for _ in range(warmup):
        jax.block_until_ready(function(*args))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def environment() -> dict[str, Any]:
    """Command, commit, hardware and versions behind a number: fields of its JSON file."""
    import jax

    devices = jax.devices()
    return describe(("jax", "jaxlib", "numpy"), device_kind=devices[0].device_kind, device_count=len(devices))


def describe(packages: Sequence[str], *, device_kind: str, device_count: int) -> dict[str, Any]:
    """The same for a number that was measured with these packages on these devices."""
    return {
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": {
            "device_kind": device_kind,
            "device_count": device_count,
            "cpu_model": _cpu_model(),
            "cpu_count": os.cpu_count(),
            "load_average": os.getloadavg()[0],  # over the last minute; shows whether the machine was shared
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }


def write_results(output: Path | None, **content: Any) -> None:
    """Writes `environment()` and the measurements to a JSON file; None writes nothing."""
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(environment() | content, indent=2) + "\n")


def _commit() -> str:
    """The commit of this repository, with "+dirty" if files other than results differ; "none" outside git."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)

    head = git("rev-parse", "HEAD")
    if head.returncode:
        return "none"
    changes = git("status", "--porcelain", "--", ":/", ":/!benchmarks/results").stdout
    return head.stdout.strip() + ("+dirty" if changes else "")


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
