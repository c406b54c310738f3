"""The overhead of asynchronous checkpoints.

    python -m benchmarks.checkpointing --model=resnet_tiny --width=1.5 --image_size=8 --head_dims 512 512 512

Blocks of `--every` steps with a save at the start, written completely by the end of the block, alternate with blocks
without a save. Reports the medians, and the stall of the loop at a save. The options of the step are those of
`benchmarks.train_step`.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax

from benchmarks.measure import write_results
from benchmarks.train_step import add_arguments, traced_step
from vicreg_jax.training.checkpoint import Checkpoints


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--blocks", type=int, default=10, help="number of blocks with a save, and of blocks without")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, directory: Path) -> dict[str, float]:
    """Times blocks of steps with and without a save."""
    traced, make_state, make_batch = traced_step(arguments)
    compiled = traced.lower().compile()
    state, batch = make_state(), make_batch()
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    stalls = []
    step = 0
    with Checkpoints(directory, keep=2) as checkpoints:
        for block in range(2 * arguments.blocks + 2):
            saves = block % 2 == 0
            jax.block_until_ready(state)
            start = time.perf_counter()
            if saves:
                checkpoints.save(step, state, {})
                stalls.append(time.perf_counter() - start)
            for _ in range(arguments.every):
                state, _ = compiled(state, batch)
                step += 1
            jax.block_until_ready(state)
            checkpoints.wait()
            seconds[saves].append(time.perf_counter() - start)
    # The first block of each kind warms up.
    with_saves, without = (statistics.median(seconds[kind][1:]) for kind in (True, False))
    return {
        "state_mebibytes": state_bytes / 2**20,
        "step_milliseconds": without / arguments.every * 1e3,
        "step_milliseconds_with_checkpoints": with_saves / arguments.every * 1e3,
        "overhead": with_saves / without - 1,
        "stall_milliseconds": statistics.median(stalls[1:]) * 1e3,
    }


def main() -> None:
    arguments = parse()
    jax.config.update("jax_num_cpu_devices", arguments.cpu_devices)
    with tempfile.TemporaryDirectory() as directory:
        results = measure(arguments, Path(directory))
    for name, value in results.items():
        print(f"{name:42s} {value:12.4g}")
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    write_results(arguments.output, settings=settings, results=results)


if __name__ == "__main__":
    main()
