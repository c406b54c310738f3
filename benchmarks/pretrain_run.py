"""Accuracy, time and memory of a config's runs over seeds, from the command line to the report.

    python -m benchmarks.pretrain_run --config=configs/digits.py --output=benchmarks/results/cpu_digits.json

Every run has its own process and workdir. The first run starts with an empty compilation cache and, with
`--fresh_data`, an unprepared dataset. `--again` reruns the last seed with a warm cache, for its time to the first step.
`--runs` keeps the workdirs and resumes the runs in them: the seconds of the summary then cover the whole run, the other
times its last part.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.measure import environment


def run(arguments: argparse.Namespace, seed: int, scratch: Path, name: str) -> dict[str, Any]:
    workdir = scratch / name
    line = [
        sys.executable,
        "launch.py",
        f"--config={arguments.config}",
        f"--workdir={workdir}",
        f"--config.seed={seed}",
        *arguments.overrides,
    ]
    variables = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled")}
    if arguments.fresh_data:
        variables["TFDS_DATA_DIR"] = str(scratch / "data")
    start = time.perf_counter()
    done = subprocess.run(line, env=variables, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    match = re.search(r"first step after ([0-9.]+) s", done.stdout)
    print(f"seed {seed}: {seconds:.1f} s\n{done.stdout}", flush=True)
    return {
        "seed": seed,
        "wall_seconds": seconds,
        "first_step_after_seconds": float(match[1]) if match else None,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        / 1024,  # maximum over the runs so far
        "summary": json.loads((workdir / "summary.json").read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fresh_data", action="store_true", help="prepare the dataset in the first run")
    parser.add_argument("--again", action="store_true", help="rerun the last seed with a warm cache")
    parser.add_argument("--runs", type=Path, help="directory that keeps the workdirs; default: they are deleted")
    parser.add_argument("--output", type=Path, required=True)
    arguments, arguments.overrides = parser.parse_known_args()
    facts = environment()  # the commit that the runs start from
    with nullcontext(arguments.runs) if arguments.runs else tempfile.TemporaryDirectory() as scratch:
        runs = [run(arguments, seed, Path(scratch), f"seed_{seed}") for seed in arguments.seeds]
        results = {"runs": runs, "cold_first_step_after_seconds": runs[0]["first_step_after_seconds"]}
        if arguments.again:
            again = run(arguments, arguments.seeds[-1], Path(scratch), "again")
            results["warm_first_step_after_seconds"] = again["first_step_after_seconds"]
            results["same_result_again"] = again["summary"]["loss"] == runs[-1]["summary"]["loss"]
    for name in ("knn_accuracy", "linear_accuracy", "wall_seconds"):
        values = [each[name] if name in each else each["summary"][name] for each in runs]
        results[name] = {"mean": statistics.mean(values), "least": min(values), "most": max(values)}
    few = [each["summary"]["few_label_accuracy"] for each in runs]
    results["few_label_accuracy"] = {
        count: {"mean": statistics.mean(row[count] for row in few), "least": min(row[count] for row in few)}
        for count in few[0]
    }
    arguments.output.write_text(json.dumps(facts | {"results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
