"""Trains a detector from a pretrained backbone, or from random weights, and evaluates it at the end.

    ENVIRONMENT/bin/python -m benchmarks.detection.train RUN --preset=voc_c4 --model=resnet50 --weights=resnet50.pth \\
        --train VOCdevkit/VOC2007:trainval VOCdevkit/VOC2012:trainval --val VOCdevkit/VOC2007:test
    ENVIRONMENT/bin/python -m benchmarks.detection.train RUN --preset=coco_fpn_1x --model=resnet50 \\
        --weights=resnet50.pth --train instances_train2017.json:train2017 --val instances_val2017.json:val2017

ENVIRONMENT has the packages of `benchmarks/detection/requirements.txt`. Without `--weights` the backbone starts from
random weights; everything else is the same. One device, in float32. Rerun the same command to resume from RUN's last
checkpoint; SIGTERM saves one and exits with code 75. RUN/result.json has the average precisions, as fractions.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.detection.coco import Coco
from benchmarks.detection.data import Examples, loader, order, read_dataset
from benchmarks.detection.detectors import RESNETS, create_detector
from benchmarks.detection.evaluation import average_precision, detect
from benchmarks.detection.presets import PRESETS, Preset
from benchmarks.measure import describe

_PREEMPTED = 75
_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of the checkpoint and the result")
    parser.add_argument("--preset", choices=PRESETS, default="short")
    parser.add_argument("--model", choices=RESNETS, default="resnet50")
    parser.add_argument("--width", type=float, default=1, help="multiplies the backbone's filters")
    parser.add_argument("--weights", type=Path, help="the backbone's, as `interop.write_torch` writes them")
    parser.add_argument("--mean", type=float, nargs=3, default=_IMAGENET_MEAN, help="of the backbone's training")
    parser.add_argument("--std", type=float, nargs=3, default=_IMAGENET_STD)
    parser.add_argument("--train", nargs="+", required=True, help="FILE.json:FOLDER or VOC2007:SPLIT")
    parser.add_argument("--val", nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, help="another number than the preset's; the drops move with it")
    parser.add_argument("--batch_size", type=int, help="another one than the preset's; the learning rate is scaled")
    parser.add_argument("--checkpoint_every", type=int, default=100, help="iterations between checkpoints")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    return parser.parse_args()


def preset_of(arguments: argparse.Namespace) -> Preset:
    """The preset, with the changes of the command line."""
    preset = PRESETS[arguments.preset]
    if arguments.iterations is not None:
        factor = arguments.iterations / preset.iterations
        preset = dataclasses.replace(
            preset,
            iterations=arguments.iterations,
            drops=tuple(round(drop * factor) for drop in preset.drops),
            warmup_iterations=min(preset.warmup_iterations, arguments.iterations // 4),
        )
    if arguments.batch_size is not None:
        lr = preset.lr * arguments.batch_size / preset.batch_size
        preset = dataclasses.replace(preset, batch_size=arguments.batch_size, lr=lr)
    return preset


def identity_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a resumed run must have in common with its checkpoint, and a result with its command."""
    names = ("model", "width", "weights", "mean", "std", "train", "val", "seed")
    return {"preset": dataclasses.asdict(preset_of(arguments))} | {
        name: str(getattr(arguments, name)) for name in names
    }


class Training:
    """A detector, its optimizer and its position, as in the checkpoint."""

    def __init__(self, arguments: argparse.Namespace, classes: int):
        self.preset, self.seed = preset_of(arguments), arguments.seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(self.seed)
        self.model = create_detector(
            arguments.model,
            self.preset,
            classes,
            weights=arguments.weights,
            mean=arguments.mean,
            std=arguments.std,
            width=arguments.width,
        ).to(self.device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), self.preset.lr, self.preset.momentum, weight_decay=self.preset.weight_decay
        )
        self.iteration, self.seconds, self.losses = 0, 0.0, []
        self.file = arguments.run / "checkpoint.pt"
        self.identity = identity_of(arguments)
        if self.file.exists():
            self._restore()

    def _restore(self) -> None:
        saved = torch.load(self.file, map_location=self.device, weights_only=True)
        if saved["identity"] != self.identity:
            sys.exit(f"RUN must be new or of the same arguments; got a checkpoint of {saved['identity']}")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.iteration, self.seconds, self.losses = saved["iteration"], saved["seconds"], saved["losses"]
        print(f"resuming from iteration {self.iteration}", flush=True)

    def save(self) -> None:
        """Replaces the checkpoint as a whole."""
        content = {name: getattr(self, name) for name in ("identity", "iteration", "seconds", "losses")}
        content |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        partial = self.file.with_suffix(".partial")
        torch.save(content, partial)
        os.replace(partial, self.file)

    def step(self, images: tuple, targets: tuple) -> float:
        """One iteration; the choice of regions is a function of the seed and the position."""
        torch.manual_seed(1_000_003 * (self.seed + 1) + self.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = self.preset.learning_rate(self.iteration)
        self.model.train()
        losses = self.model(
            [image.to(self.device) for image in images],
            [{name: value.to(self.device) for name, value in target.items()} for target in targets],
        )
        weights = dict.fromkeys(("loss_objectness", "loss_rpn_box_reg"), self.preset.rpn_loss_weight)
        loss = sum(weights.get(name, 1.0) * value for name, value in losses.items())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.iteration += 1
        return loss.item()


def train(training: Training, dataset: Coco, arguments: argparse.Namespace) -> None:
    """Trains to the last iteration, or exits with code 75 on SIGTERM."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    preset = training.preset
    examples = Examples(dataset, with_masks=preset.detector == "fpn", skip_empty=True)
    batches = order(len(examples), preset.batch_size, training.seed, training.iteration, preset.iterations)
    start = time.perf_counter() - training.seconds
    for images, targets in loader(examples, batches, arguments.workers):
        loss = training.step(images, targets)
        training.seconds = time.perf_counter() - start
        if not loss < float("inf"):
            sys.exit(f"stopped: the loss of iteration {training.iteration} is {loss}; a lower learning rate may help")
        is_last = training.iteration == preset.iterations
        if is_last or training.iteration % 20 == 0:
            training.losses.append([training.iteration, loss])
            print(f"iteration {training.iteration}, loss {loss:.3f}, {training.seconds:.0f} s", flush=True)
        if stopped or is_last or training.iteration % arguments.checkpoint_every == 0:
            training.save()
        if stopped and not is_last:
            print(f"preempted: saved iteration {training.iteration}; rerun the same command to resume", flush=True)
            sys.exit(_PREEMPTED)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the evaluation is repeated as a whole


def main() -> None:
    arguments = parse_arguments()
    arguments.run.mkdir(parents=True, exist_ok=True)
    result = arguments.run / "result.json"
    if result.exists():
        settings = json.loads(result.read_text())["settings"]
        if settings != json.loads(json.dumps(identity_of(arguments))):
            sys.exit(f"RUN must be new or of the same arguments; got a result of {settings}")
        print(f"complete: {result}")
        return
    train_set, val_set = read_dataset(arguments.train), read_dataset(arguments.val)
    training = Training(arguments, len(train_set["categories"]))
    train(training, train_set, arguments)
    detections = detect(training.model, val_set, device=training.device, workers=arguments.workers)
    kinds = ("bbox", "segm") if training.preset.detector == "fpn" else ("bbox",)
    results: dict[str, Any] = {kind: average_precision(val_set, detections, kind) for kind in kinds}
    results |= {
        "loss": training.losses[-1][1],
        "detections": len(detections),
        "training_seconds": training.seconds,
    }
    cuda = training.device.type == "cuda"
    kind = torch.cuda.get_device_name() if cuda else "cpu"
    facts = describe(("torch", "torchvision", "pycocotools", "numpy"), device_kind=kind, device_count=1)
    content = facts | {"settings": training.identity, "results": results}
    partial = arguments.run / "result.partial"
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, result)
    for measured in kinds:
        print(measured, " ".join(f"{name} {value:.3f}" for name, value in results[measured].items()))


if __name__ == "__main__":
    main()
