"""Runs a named suite of benchmarks and writes one JSON file for each to `benchmarks/results/`.

    python -m benchmarks.run_suite cpu          # or gpu; --again repeats benchmarks that have a file

File names start with the suite's name, so that results of several machines live side by side. Rerun an interrupted
suite to run the benchmarks that have no file yet.
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
_IMAGENET = (
    "--model=resnet50 --stem=imagenet --image_size=224 --canvas=384 --channels=3 --recipe=vicreg "
    "--batch=256 --head_dims 8192 8192 8192"
)
_LARGE_LOSSES = (
    "--covariance 256x8192 2048x8192 4096x8192 256x16384 4096x16384 --vicreg 256x8192 2048x8192 4096x16384 "
    "--barlow_twins 256x8192 2048x8192 4096x16384 --nt_xent 4096x128 --debiased 4096x128 --info_nce 4096x128 "
    "--blocked=65536x128 --block_size=1024"
)
_SMT_CIFAR = "--size=32 --channels=3 --flips --atoms=8192 --embedding_dim=512"

SUITES = {
    "cpu": {
        "train_step_digits": f"train_step {_DIGITS} --batch=128 --head_dims 512 512 512",
        "train_step_digits_two_devices": f"train_step {_DIGITS} --batch=128 --head_dims 512 512 512 --cpu_devices=2",
        "train_step_cifar": f"train_step {_CIFAR} --batch=64 --head_dims 2048 2048 2048 --steps=2 --repeats=3",
        "augment_digits": "augment --recipe=digits --batch=128 --canvas=8 --image_size=8 --channels=1",
        "augment_small_image": "augment --recipe=small_image --batch=128 --canvas=32 --image_size=32",
        "augment_vicreg": "augment --recipe=vicreg --batch=16 --canvas=256 --image_size=224",
        "losses": "losses",
        "losses_counts": "losses_counts",
        "checkpointing_digits": f"checkpointing {_DIGITS} --batch=128 --head_dims 512 512 512",
        "devices_digits": "devices --learning_rates 0.001 0.01",
        "memory_counts": "memory_counts",
        "smt_fashion": "smt --size=28 --channels=1 --atoms=2048 --embedding_dim=256",
        "locoprop_step": "locoprop_step",
        "smt_digits": "pretrain_run --config=configs/smt_digits.py --fresh_data",
        "pretrain_digits": "pretrain_run --config=configs/digits.py --fresh_data --again",
    },
    "gpu": {
        "train_step_digits": f"train_step {_DIGITS} --batch=128 --head_dims 512 512 512 --steps=200",
        "train_step_cifar": f"train_step {_CIFAR} --batch=256 --head_dims 2048 2048 2048 --precision=bfloat16",
        "train_step_cifar_float32": f"train_step {_CIFAR} --batch=256 --head_dims 2048 2048 2048",
        "train_step_imagenet": f"train_step {_IMAGENET} --precision=bfloat16",
        "train_step_imagenet_float32": f"train_step {_IMAGENET}",
        "checkpointing_imagenet": f"checkpointing {_IMAGENET} --precision=bfloat16",
        "augment_small_image": "augment --recipe=small_image --batch=1024 --canvas=32 --image_size=32",
        "augment_vicreg": "augment --recipe=vicreg --batch=256 --canvas=384 --image_size=224",
        "smt_fashion": "smt --size=28 --channels=1 --atoms=8192 --chunk_size=256 --images=60000",
        "locoprop_step": "locoprop_step --steps=100",
        "smt_cifar": f"smt {_SMT_CIFAR} --chunk_size=256 --images=50000",
        "losses": f"losses {_LARGE_LOSSES} --dtypes float32 bfloat16 --seconds=1",
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--again", action="store_true", help="repeat benchmarks that have a file")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="directory of the JSON files")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, command in SUITES[arguments.suite].items():
        output = arguments.results / f"{arguments.suite}_{name}.json"
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
