"""Runs the benchmarks of a CPU and writes one JSON file for each, `cpu_NAME.json`, to `benchmarks/results/`.

    python -m benchmarks.run_suite          # --again repeats benchmarks that have a file

Rerun an interrupted suite to run the benchmarks that have no file yet. On a GPU, run `benchmarks.gpu_day`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

_DIGITS = (
    "--model=resnet_tiny --width=1.5 --stem=small --image_size=8 --canvas=8 --channels=1 --recipe=digits "
    "--optimizer=adamw"
)
_CIFAR = "--model=resnet18 --stem=small --image_size=32 --canvas=32 --channels=3 --recipe=small_image"

SUITE = {
    "train_step_digits": f"train_step {_DIGITS} --batch=128 --head_dims 512 512 512",
    "train_step_digits_two_devices": f"train_step {_DIGITS} --batch=128 --head_dims 512 512 512 --cpu_devices=2",
    "train_step_cifar": f"train_step {_CIFAR} --batch=64 --head_dims 2048 2048 2048 --steps=2 --repeats=3",
    "augment_digits": "augment --recipe=digits --batch=128 --canvas=8 --image_size=8 --channels=1",
    "augment_small_image": "augment --recipe=small_image --batch=128 --canvas=32 --image_size=32",
    "augment_vicreg": "augment --recipe=vicreg --batch=16 --canvas=256 --image_size=224",
    "losses": "losses",
    "losses_counts": "losses_counts",
    "sliced_losses": "sliced_losses",
    "checkpointing_digits": f"checkpointing {_DIGITS} --batch=128 --head_dims 512 512 512",
    "devices_digits": "devices --learning_rates 0.001 0.01",
    "memory_counts": "memory_counts",
    "smt_fashion": "smt --size=28 --channels=1 --atoms=2048 --embedding_dim=256",
    "locoprop_step": "locoprop_step",
    "smt_digits": "pretrain_run --config=configs/smt_digits.py --fresh_data",
    "pretrain_digits": "pretrain_run --config=configs/digits.py --fresh_data --again",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="repeat benchmarks that have a file")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="directory of the JSON files")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, command in SUITE.items():
        output = arguments.results / f"cpu_{name}.json"
        if output.exists() and not arguments.again:
            print(f"{output.name}: exists already")
            continue
        print(f"== {name}", flush=True)
        module, *options = command.split()
        line = [sys.executable, "-m", f"benchmarks.{module}", *options, f"--output={output}"]
        done = subprocess.run(line, check=False)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
