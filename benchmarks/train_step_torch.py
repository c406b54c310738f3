"""Throughput of the same step in PyTorch, tuned: torchvision's ResNet, the expander and VICReg's loss.

    python -m benchmarks.train_step_torch --model=resnet50 --image_size=224 --batch=256 --head_dims 8192 8192 8192

Automatic mixed precision in bfloat16, channels last, torch.compile, cuDNN's benchmark mode, a fused SGD where ours has
LARS, and views that lie on the GPU already: no augmentation and no metrics. So it does less than our step does.
Compare with `benchmarks.train_step --given_views`, too.
"""

import argparse
import importlib.metadata
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.losses_torch import DEVICE, vicreg, wait
from benchmarks.measure import environment, write_results


class JointEmbedding(nn.Module):
    """Backbone and expander; each view goes through them by itself."""

    def __init__(self, model: str, head_dims: list[int]):
        super().__init__()
        self.backbone = getattr(torchvision.models, model)(zero_init_residual=True)
        width = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()
        layers: list[nn.Module] = []
        for dim in head_dims[:-1]:
            layers += [nn.Linear(width, dim), nn.BatchNorm1d(dim), nn.ReLU(inplace=True)]
            width = dim
        self.head = nn.Sequential(*layers, nn.Linear(width, head_dims[-1], bias=False))

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """The loss of two views `[batch, 3, size, size]`."""
        return vicreg(self.head(self.backbone(view_a)), self.head(self.backbone(view_b)))


def training_step(arguments: argparse.Namespace) -> Callable[[], Tensor]:
    """A function that takes one step and returns the loss."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model = JointEmbedding(arguments.model, arguments.head_dims).to(DEVICE, memory_format=torch.channels_last)
    forward = model if arguments.mode == "none" else torch.compile(model, mode=arguments.mode)
    on_gpu = DEVICE == "cuda"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-6, fused=on_gpu)
    shape = (arguments.batch, 3, arguments.image_size, arguments.image_size)
    views = [torch.randn(shape, device=DEVICE).to(memory_format=torch.channels_last) for _ in range(2)]

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = forward(*views)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--head_dims", type=int, nargs="+", default=[8192, 8192, 8192])
    parser.add_argument("--mode", default="default", help="of torch.compile, such as max-autotune; none: eager")
    parser.add_argument("--steps", type=int, default=10, help="steps per timed block")
    parser.add_argument("--repeats", type=int, default=5, help="timed blocks")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # JAX only says what hardware this is
    step = training_step(arguments)
    started = time.perf_counter()
    for _ in range(3):
        loss = step()
    wait()
    compile_seconds = time.perf_counter() - started
    seconds = []
    for _ in range(arguments.repeats):
        started = time.perf_counter()
        for _ in range(arguments.steps):
            loss = step()
        wait()
        seconds.append((time.perf_counter() - started) / arguments.steps)
    step_seconds = statistics.median(seconds)
    results = {
        "step_milliseconds": 1e3 * step_seconds,
        "step_milliseconds_fastest": 1e3 * min(seconds),
        "step_milliseconds_slowest": 1e3 * max(seconds),
        "images_per_second": arguments.batch / step_seconds,
        "first_three_steps_seconds": compile_seconds,
        "loss": float(loss),
        "memory_mebibytes": torch.cuda.max_memory_allocated() / 2**20 if DEVICE == "cuda" else None,
    }
    for name, value in results.items():
        print(f"{name:42s} {value}")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    versions |= environment()["versions"]
    write_results(arguments.output, settings=settings, results=results, versions=versions)


if __name__ == "__main__":
    main()
