"""Does every ImageNet preset compile for a TPU slice, does it fit, and what does its step cost?

    python -m benchmarks.tpu_programs --seconds=3000

For every preset and slice this is a `--dry_run` (extra `tpu`; no TPU is needed). Where a step does not fit, it is
compiled again with what saves memory, until it does. A compilation takes minutes, so the results are written after
each to one JSON file, and the same command compiles what is missing. `--table` prints the table for the docs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import environment

ROOT = Path(__file__).parents[1]
PRESETS = tuple(sorted(path.stem for path in (ROOT / "configs/imagenet").glob("*.py")))
# By the name under which a slice is rented; of v4 and v5p it counts cores, two a chip.
SLICES = {"v5e-16": "v5e:4x4", "v4-32": "v4:2x2x4", "v6e-8": "v6e:2x4", "v5p-16": "v5p:2x2x2", "v5e-64": "v5e:8x8"}
# What is tried where a step does not fit, in this order.
REMEDIES = (
    (),
    ("--config.train.remat=True",),
    ("--config.train.remat=True", "--config.mesh.data=1", "--config.mesh.fsdp=-1"),
)


def dry_run(preset: str, topology: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """The result of one `--dry_run`, or its error line."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "found.json"
        line = [sys.executable, "launch.py", f"--config=configs/imagenet/{preset}.py", f"--dry_run={topology}"]
        command = [*line, *overrides, f"--output={output}"]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        print(done.stdout[-4000:], done.stderr[-1000:], sep="\n", flush=True)
        if done.returncode:
            return {"failed": done.stderr.strip().splitlines()[-1][:300]}
        found: dict[str, Any] = json.loads(output.read_text())
    found.pop("config")
    return found


def case(preset: str, topology: str) -> dict[str, Any]:
    """The first remedy with which the step fits; the last one tried where none helps."""
    facts: dict[str, Any] = {"preset": preset, "topology": topology}
    for overrides in REMEDIES:
        facts |= {"overrides": list(overrides)} | dry_run(preset, topology, overrides)
        if "failed" in facts or facts["fits"]:
            break
    return facts | {key: value for key, value in environment().items() if key in ("commit", "date", "versions")}


def table(cases: dict[str, dict[str, Any]]) -> str:
    """The cases as a Markdown table."""
    lines = [
        "| preset | slice | batch | memory of a chip, GiB | fits | with | TFLOP | traffic, GB | sent, GB | compiled |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in cases.items():
        preset, slice_ = name.split()
        if "failed" in found:
            lines.append(f"| {preset} | {slice_} | | | {found['failed']} | | | | | |")
            continue
        step = found["programs"]["train step"]
        remedy = ", ".join(each.removeprefix("--config.") for each in found["overrides"]) or "as it is"
        traffic, sent = sum(step["traffic"].values()), sum(each["sent"] for each in step["collectives"])
        lines.append(
            f"| `{preset}` | {slice_} | {found['batch_size']} | {step['memory'] / 2**30:.1f} of "
            f"{found['memory_available'] / 2**30:.0f} | {'yes' if found['fits'] else 'no'} | {remedy} | "
            f"{step['flops'] / 1e12:.2f} | {traffic / 1e9:.0f} | {sent / 1e9:.2f} | {step['compile_seconds']:.0f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--slices", nargs="+", choices=SLICES, default=list(SLICES))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no compilation after that time")
    parser.add_argument("--again", action="store_true", help="repeat cases that are there")
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/tpu_programs.json")
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process compiles nothing
    started = time.monotonic()
    content = json.loads(arguments.output.read_text()) if arguments.output.exists() else {"cases": {}}
    cases = content["cases"]
    if not arguments.table:
        for slice_ in arguments.slices:
            for preset in arguments.presets:
                name = f"{preset} {slice_}"
                if (name in cases and not arguments.again) or time.monotonic() - started > arguments.seconds:
                    continue
                print(f"== {name}", flush=True)
                cases[name] = case(preset, SLICES[slice_])
                arguments.output.write_text(json.dumps(environment() | content, indent=1) + "\n")
    print(table(cases))


if __name__ == "__main__":
    main()
