"""What a config's run reaches, how long it takes and what memory, from the command line to the report, over seeds.

    python -m benchmarks.pretrain_run --config=configs/digits.py --output=benchmarks/results/cpu_digits.json

Every run is a process of its own with a working directory of its own. The first starts with an empty compilation
cache, and with `--fresh_data` an unprepared data set; with `--again` the last seed is run once more with a warm cache,
for the time to its first step. With `--runs` the working directories stay, and runs that are in them go on: then the
seconds of the summary are those of the whole run, the others of its last part.
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
    said = re.search(r"first step after ([0-9.]+) s", done.stdout)
    print(f"seed {seed}: {seconds:.1f} s\n{done.stdout}", flush=True)
    return {
        "seed": seed,
        "wall_seconds": seconds,
        "first_step_after_seconds": float(said[1]) if said else None,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,  # of the runs so far
        "summary": json.loads((workdir / "summary.json").read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fresh_data", action="store_true", help="prepare the data set in the first run")
    parser.add_argument("--again", action="store_true", help="run the last seed once more, with a warm cache")
    parser.add_argument("--runs", type=Path, help="where the working directories are kept; none: they are deleted")
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
