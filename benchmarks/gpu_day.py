"""Everything that a GPU has to answer, in slices of minutes, most valuable first.

    python -m benchmarks.gpu_day --seconds=540

Each part writes `gpu_NAME.json` to `--output` as soon as it has measured. A part starts only if its estimate fits the
time left, and is stopped at the end of that time. Run again, the same command runs the parts that have no file
there or among the results in the repository; with `--again`, those of `--parts` whether or not they have one among the
results. `benchmarks/offline` says what a machine without a network needs. `--toy` runs every part at the size of a toy,
on a CPU too.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results"
_UNFINISHED = 75  # the exit code of a part that resumes
_MARGIN = 15  # seconds to end in

_RESNET50 = (
    "--model=resnet50 --stem=imagenet --image_size=224 --channels=3 --recipe=vicreg --batch=256 "
    "--head_dims 8192 8192 8192 --precision=bfloat16 --steps=10"
)
_RESNET18 = (
    "--model=resnet18 --stem=small --image_size=32 --canvas=32 --channels=3 --recipe=small_image "
    "--head_dims 2048 2048 2048 --precision=bfloat16 --steps=50"
)
_TOY_STEP = (
    "--model=resnet_tiny --width=0.5 --stem=small --image_size=16 --channels=3 --recipe=vicreg --batch=8 "
    "--head_dims 32 32 --precision=bfloat16 --steps=1 --repeats=1"
)
_LOSSES = "--seconds=0.3 --covariance --vicreg --barlow_twins --nt_xent --debiased --info_nce --blocked="
_TOY_LOSSES = f"{_LOSSES} --seconds=0.01 --negatives=64"
_FASHION_MNIST = "--set=data.manual_dir=.offline/fashion-mnist"
_FAIR_TABLE = f"experiments.fair_table --config=configs/fashion_mnist.py {_FASHION_MNIST}"


class Part(NamedTuple):
    """One question.

    Attributes:
        seconds: estimate on one H100, compilation included.
        command: module of `benchmarks` and its options; `{seconds}` stands for the time left.
        toy: the same at the size of a toy.
        resumes: whether it resumes where it stopped, with the same file.
    """

    seconds: int
    command: str
    toy: str
    resumes: bool = False


PARTS = {
    # Does it run, and are the losses right?
    "correctness": Part(110, "correctness", "correctness --tests=test_byol.py --epochs=1"),
    # The whole step, by part, and PyTorch's beside it.
    "resnet50": Part(
        120, f"train_step {_RESNET50} --canvas=384 --profile", f"train_step {_TOY_STEP} --canvas=24 --profile"
    ),
    "resnet50_torch": Part(
        155,
        "train_step_torch --model=resnet50 --image_size=224 --batch=256 --head_dims 8192 8192 8192 --steps=10",
        "train_step_torch --model=resnet18 --image_size=32 --batch=4 --head_dims 32 32 --steps=1 --repeats=1",
    ),
    "resnet50_given_views": Part(
        110,
        f"train_step {_RESNET50} --canvas=224 --given_views",
        f"train_step {_TOY_STEP} --canvas=16 --given_views",
    ),
    # How large may the chunks of the augmentation be?
    "augment_chunks": Part(
        90,
        "augment_chunks --batch=256 --canvas=384 --image_size=224",
        "augment_chunks --batch=32 --canvas=24 --image_size=16 --chunks 4 32 --repeats=1",
    ),
    # An epoch of 50,000 small images.
    "resnet18_256": Part(100, f"train_step {_RESNET18} --batch=256", f"train_step {_TOY_STEP} --canvas=16"),
    "resnet18_1024": Part(
        100, f"train_step {_RESNET18} --batch=1024 --profile", f"train_step {_TOY_STEP} --canvas=16 --profile"
    ),
    # Losses against the textbook, and by the precision of their products.
    "losses_precision": Part(60, "losses_precision 2048x8192 4096x16384", "losses_precision 16x32 --seconds=0.01"),
    "losses_covariance": Part(
        140,
        f"losses {_LOSSES} --covariance 256x8192 2048x8192 --dtypes float32",
        f"losses {_TOY_LOSSES} --covariance 16x32 --dtypes float32",
    ),
    "losses_whole": Part(
        140,
        f"losses {_LOSSES} --vicreg 256x8192 --barlow_twins 256x8192 --dtypes float32",
        f"losses {_TOY_LOSSES} --vicreg 16x32 --barlow_twins 16x32 --dtypes float32",
    ),
    "losses_contrastive": Part(
        140,
        f"losses {_LOSSES} --nt_xent 4096x128 --info_nce 256x128 --blocked=65536x128 --block_size=1024 "
        "--dtypes float32",
        f"losses {_TOY_LOSSES} --nt_xent 16x8 --info_nce 16x8 --blocked=64x8 --block_size=16 --dtypes float32",
    ),
    "losses_bfloat16": Part(
        140,
        f"losses {_LOSSES} --covariance 256x8192 2048x8192 --dtypes bfloat16",
        f"losses {_TOY_LOSSES} --covariance 16x32 --dtypes bfloat16",
    ),
    "resnet50_torch_tuned": Part(
        240,
        "train_step_torch --model=resnet50 --image_size=224 --batch=256 --head_dims 8192 8192 8192 --steps=10 "
        "--mode=max-autotune-no-cudagraphs",
        "train_step_torch --model=resnet18 --image_size=32 --batch=4 --head_dims 32 32 --steps=1 --repeats=1 "
        "--mode=none",
    ),
    # What each method reaches.
    "fashion_mnist": Part(
        60,
        f"experiments.methods_fashion_mnist --seconds={{seconds}} --set=train.epochs=20 {_FASHION_MNIST}",
        f"experiments.methods_fashion_mnist --seconds=20 --runs=runs/rehearsal {_FASHION_MNIST}",
        resumes=True,
    ),
    # The fair table: 74 runs, and as many with the ViT.
    "fair_table": Part(
        120, f"{_FAIR_TABLE} --epochs=20 --seconds={{seconds}}", f"{_FAIR_TABLE} --seconds=20", resumes=True
    ),
    "fair_table_vit": Part(
        120, f"{_FAIR_TABLE} --vit --epochs=20 --seconds={{seconds}}", f"{_FAIR_TABLE} --vit --seconds=20", resumes=True
    ),
    # Which forms of the stem are fastest?
    "stem": Part(40, "stem", "stem --batch=4 --image_size=32 --repeats=1"),
    # The neighbors.
    "smt": Part(
        110,
        "smt --size=32 --channels=3 --flips --atoms=8192 --embedding_dim=512 --chunk_size=256 --images=10000",
        "smt --size=20 --channels=1 --atoms=32 --embedding_dim=8 --chunk_size=8 --images=16 --repeats=1",
    ),
    "locoprop_step": Part(60, "locoprop_step --steps=100", "locoprop_step --steps=1 --repeats=1"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=540.0, help="time for all of it")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory of the JSON files")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--again", action="store_true", help="measure what has been measured before")
    parser.add_argument("--toy", action="store_true", help="a rehearsal: toy sizes, files in --output only")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + arguments.seconds
    outcome = {}
    for name in arguments.parts:
        part, file = PARTS[name], f"gpu_{name}.json"
        output, committed = arguments.output / file, RESULTS / file
        if not (arguments.toy or arguments.again) and committed.exists() and not output.exists():
            shutil.copy(committed, output)
        if output.exists() and not part.resumes:
            outcome[name] = "there already"
            continue
        left = deadline - time.monotonic()
        if left < (0 if arguments.toy else part.seconds):
            outcome[name] = f"left: estimate {part.seconds} s, {left:.0f} s left"
            continue
        outcome[name] = _run(part.toy if arguments.toy else part.command, output, left)
    print(*(f"{name:24s} {said}" for name, said in outcome.items()), sep="\n")
    return 1 if any(said.startswith("failed") for said in outcome.values()) else 0


def _run(command: str, output: Path, seconds: float) -> str:
    """Runs a part, with its output in a log beside the file, and says how it went."""
    print(f"== {command}", flush=True)
    module, *options = command.format(seconds=max(1, round(seconds) - _MARGIN)).split()
    line = [sys.executable, "-m", f"benchmarks.{module}", *options, f"--output={output}"]
    # PyTorch and several processes of ours share the GPU.
    variables = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9", "PYTHONUNBUFFERED": "1"} | os.environ
    # The next part with the same convolutions compiles in a third of the time.
    cache = output.parent / "autotuning"
    cache.mkdir(exist_ok=True)
    variables["XLA_FLAGS"] = f"{variables.get('XLA_FLAGS', '')} --xla_gpu_per_fusion_autotune_cache_dir={cache}"
    started = time.monotonic()
    try:
        code = subprocess.run(line, check=False, env=variables, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        return f"stopped: time was up after {seconds:.0f} s"
    took = time.monotonic() - started
    if code == _UNFINISHED:
        return f"unfinished after {took:.0f} s"
    return f"failed with exit code {code} after {took:.0f} s" if code else f"done in {took:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
