"""Do the losses of this checkout cost more than those of another one? Time, temporary memory and FLOPs as ratios.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.losses_two_checkouts /tmp/before --output=FILE

Value and gradients, float32. One process for each checkout; they take turns, so that what else the machine does meets
both. A ratio above 1 means that this checkout costs more.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import write_results

ROOT = Path(__file__).parents[1]
SHAPES = {
    "covariance": ((256, 8192), (2048, 8192)),
    "vicreg": ((256, 8192),),
    "barlow_twins": ((256, 8192),),
    "nt_xent": ((2048, 128),),
    "debiased": ((2048, 128),),
    "info_nce": ((256, 128),),
}
NEGATIVES = 65536  # of info_nce
# Run in each checkout: compiles every case, then takes names and answers with the median of a few calls.
PROCESS = """
import json, statistics, sys, time
import jax
from benchmarks.losses import OURS, compile_gradient, embeddings

compiled = {}
for name, loss, rows, dim in json.loads(sys.argv[1]):
    arrays = [jax.numpy.asarray(z) for z in embeddings(loss, rows, dim, int(sys.argv[2]))]
    is_loop = loss in ("nt_xent", "debiased", "info_nce")
    compiled[name] = compile_gradient(OURS[loss], arrays, is_loop=is_loop)
    compiled[name].wait(compiled[name].call())
print(json.dumps({name: each.facts for name, each in compiled.items()}), flush=True)
for line in sys.stdin:
    each, seconds = compiled[line.strip()], []
    for _ in range(7):
        start = time.perf_counter()
        each.wait(each.call())
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds), flush=True)
"""


def start(checkout: Path, cases: list[tuple[str, str, int, int]]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, json.dumps(cases), str(NEGATIVES)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    return subprocess.Popen(
        command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ask(process: subprocess.Popen[str], name: str) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(name + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    cases = [(f"{loss} {n}x{d}", loss, n, d) for loss, shapes in SHAPES.items() for n, d in shapes]
    processes = [start(checkout, cases) for checkout in (arguments.before.resolve(), ROOT)]
    facts = [json.loads(process.stdout.readline()) for process in processes if process.stdout is not None]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=arguments.before, check=True, capture_output=True, text=True
    ).stdout.strip()
    results: dict[str, Any] = {}
    for name, *_ in cases:
        turns = [[ask(process, name) for process in processes] for _ in range(arguments.turns)]
        results[name] = {
            "time_ratio": statistics.median(after / before for before, after in turns),
            "milliseconds": [1e3 * min(times) for times in zip(*turns, strict=True)],
            **{key: [each[name][key] for each in facts] for key in facts[0][name]},
        }
        print(name, json.dumps(results[name]), flush=True)
    for process in processes:
        process.kill()
    write_results(arguments.output, before=commit, order=["before", "after"], results=results)


if __name__ == "__main__":
    main()
