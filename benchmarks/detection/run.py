"""Is a backbone that was pretrained on unlabeled frames worth more to a detector than random weights?

    python -m benchmarks.detection.run                  # sized for two CPU cores
    python -m benchmarks.detection.run --preset=gpu     # ResNet-50, longer schedules

Renders frames of ViZDoom, pretrains on the unlabeled ones with `launch.py`, exports the backbone, and trains Mask R-CNN
from it and from random weights, with equal schedules. `--supervised=FILE` adds a backbone of yours, such as
torchvision's, which expects ImageNet's mean and standard deviation.

torch, torchvision, pycocotools and vizdoom are in an environment of their own. The first run makes it with pip (several
gigabytes); `--environment` names another place for it. Rerun the same command to resume; `--seconds` stops in time with
code 75.
"""

import argparse
import dataclasses
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

from benchmarks.measure import environment
from vicreg_jax import load_encoder
from vicreg_jax.interop import to_torch, write_torch

_HERE = Path(__file__).parent
_PREEMPTED = 75  # exit code of launch.py and of train.py when preempted, and ours when time is up
_SHOWN = {"bbox": ("AP", "AP50", "AP75"), "segm": ("AP", "AP50", "AP75")}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Sizes of all parts.

    Attributes:
        frames: number by split, see `make_vizdoom`.
        model: the backbone.
        pretraining: config fields that differ from configs/image_folder.py, and their values.
        detector: arguments of `train.py`.
        seeds: of the detectors; the pretraining has seed 0.
    """

    frames: dict[str, int]
    model: str
    pretraining: dict[str, Any]
    detector: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1)


PRESETS = {
    "two_cores": Comparison(
        frames={"unlabeled": 6000, "train": 1500, "val": 500},
        model="resnet_tiny",
        pretraining={
            "model.width": 2.0,
            "data.image_size": 64,
            "train.precision": "float32",
            "train.batch_size": 128,
            "train.epochs": 24,
            "optim.base_lr": 0.8,  # for a batch of 128: paper, appendix C.4
            "optim.warmup_epochs": 1.0,
            "checkpoint.every_steps": 50,
        },
        detector=("--preset=short", "--width=2", "--iterations=2400"),
    ),
    "gpu": Comparison(
        frames={"unlabeled": 60_000, "train": 6000, "val": 2000},
        model="resnet50",
        pretraining={
            "data.image_size": 128,
            "train.batch_size": 512,
            "train.epochs": 100,
            "train.precision": "bfloat16",
            "optim.base_lr": 0.4,  # for a batch of 512: paper, appendix C.4
        },
        detector=("--preset=short", "--batch_size=16", "--iterations=6000", "--workers=8"),
    ),
    "toy": Comparison(
        frames={"unlabeled": 60, "train": 60, "val": 20},
        model="resnet_tiny",
        pretraining={
            "model.width": 2.0,
            "data.image_size": 32,
            "train.precision": "float32",
            "train.batch_size": 16,
            "train.epochs": 1,
            "model.head_dims": (32, 32),
            "optim.warmup_epochs": 0.0,
        },
        detector=("--preset=short", "--width=2", "--batch_size=2", "--iterations=4"),
    ),
}


def run_until(command: list[str], deadline: float) -> None:
    """Runs a command to its end; at the deadline it gets SIGTERM, to save and exit.

    Raises:
        SystemExit: with code 75 if time was up, with code 1 if the command failed.
    """
    print(" ".join(map(str, command)), flush=True)
    process = subprocess.Popen(command)
    try:
        process.wait(timeout=min(max(deadline - time.monotonic(), 0), 1e6))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
        if process.returncode:
            print("time is up; rerun the same command to resume")
            sys.exit(_PREEMPTED)
    if process.returncode:
        sys.exit(f"failed with code {process.returncode}: {' '.join(map(str, command))}")


def make_environment(directory: Path, deadline: float) -> Path:
    """The Python of the environment, which is made if it is not there."""
    python = directory / "bin" / "python"
    if not python.exists():
        venv.create(directory, with_pip=True)
    imports = [str(python), "-c", "import pycocotools, torch, torchvision, vizdoom"]
    if subprocess.run(imports, stderr=subprocess.DEVNULL, check=False).returncode:
        run_until([str(python), "-m", "pip", "install", "-q", "-r", str(_HERE / "requirements.txt")], deadline)
    return python


def pretrain(comparison: Comparison, frames: Path, workdir: Path, deadline: float) -> dict[str, Any]:
    """Pretrains on the unlabeled frames; returns the run's summary."""
    fields = {"data.manual_dir": frames / "unlabeled", "model.name": comparison.model} | comparison.pretraining
    overrides = [f"--config.{field}={value}" for field, value in fields.items()]
    launch = [sys.executable, "launch.py", "--config=configs/image_folder.py", f"--workdir={workdir}"]
    run_until([*launch, *overrides], deadline)
    summary = json.loads((workdir / "summary.json").read_text())
    kept = ("method", "steps", "epochs", "seconds", "loss")
    return {"overrides": overrides} | {name: summary[name] for name in kept}


def export(workdir: Path, file: Path) -> list[str]:
    """Writes the backbone for torchvision; returns the arguments of `train.py` for it."""
    encoder = load_encoder(workdir)
    write_torch(file, to_torch(encoder.variables, encoder.backbone))
    arguments = [f"--weights={file}"]
    for name in ("mean", "std"):
        values = getattr(encoder.preprocessing, name)
        arguments += [f"--{name}", *map(str, values * (3 // len(values)))]
    return arguments


def over_seeds(runs: dict[str, Any]) -> dict[str, Any]:
    """Mean, minimum and maximum over the seeds, by arm, kind and measure."""
    table: dict[str, Any] = {}
    for arm in dict.fromkeys(name.rpartition("_")[0] for name in runs):
        rows = [run["results"] for name, run in runs.items() if name.rpartition("_")[0] == arm]
        table[arm] = {
            kind: {
                measure: {"mean": statistics.mean(values), "least": min(values), "most": max(values)}
                for measure in measures
                if (values := [row[kind][measure] for row in rows])
            }
            for kind, measures in _SHOWN.items()
        }
    return table


def markdown(table: dict[str, Any]) -> str:
    """The table in Markdown: means, with minimum and maximum in parentheses."""
    columns = [(kind, measure) for kind, measures in _SHOWN.items() for measure in measures]
    titles = [f"{'box' if kind == 'bbox' else 'mask'} {measure}" for kind, measure in columns]
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(columns) + 1) + "|"]
    for arm, row in table.items():
        cells = [row[kind][measure] for kind, measure in columns]
        shown = ["{mean:.3f} ({least:.3f} to {most:.3f})".format(**cell) for cell in cells]
        lines.append(f"| {arm} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="two_cores")
    parser.add_argument("--runs", type=Path, default=Path("runs/detection"), help="directory of frames and runs")
    parser.add_argument("--environment", type=Path, help="of the detectors; default: RUNS/environment")
    parser.add_argument("--supervised", type=Path, help="weights of a supervised backbone, in torchvision's style")
    parser.add_argument(
        "--output", type=Path, help="default: benchmarks/results/detection_vizdoom.json, of `two_cores`"
    )
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after that time")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    comparison = PRESETS[arguments.preset]
    suffix = "" if arguments.preset == "two_cores" else f"_{arguments.preset}"
    output = arguments.output or Path(f"benchmarks/results/detection_vizdoom{suffix}.json")

    python = make_environment(arguments.environment or arguments.runs / "environment", deadline)
    runs = arguments.runs / arguments.preset
    frames = runs / "frames"
    counts = [f"--{split}={number}" for split, number in comparison.frames.items()]
    run_until([str(python), "-m", "benchmarks.detection.make_vizdoom", str(frames), *counts], deadline)
    pretraining = pretrain(comparison, frames, runs / "pretraining", deadline)

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave a GPU to the detectors
    weights = export(runs / "pretraining", runs / "backbone.pth")
    arms = {"pretrained": weights, "random": weights[1:]}  # the same normalization
    if arguments.supervised:
        arms["supervised"] = [f"--weights={arguments.supervised}"]
    data = [f"{frames / split}.json:{frames / split}" for split in ("train", "val")]
    shared = [f"--model={comparison.model}", *comparison.detector, "--train", data[0], "--val", data[1]]
    found = {}
    for seed in comparison.seeds:
        for arm, backbone in arms.items():
            run = runs / f"{arm}_{seed}"
            command = [str(python), "-m", "benchmarks.detection.train", str(run)]
            run_until([*command, *shared, *backbone, f"--seed={seed}"], deadline)
            found[run.name] = json.loads((run / "result.json").read_text())
    table = over_seeds(found)
    content = environment() | {
        "frames": json.loads((frames / "counts.json").read_text()),
        "pretraining": pretraining,
        "runs": found,
        "table": table,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, output)
    print(markdown(table))


if __name__ == "__main__":
    main()
