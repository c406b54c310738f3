"""Device memory of a train step, counted from shapes and compiled programs; runs nothing.

    python -m benchmarks.memory_counts

On eight devices: the bytes of the state by `mesh.fsdp`, and the temporary memory of the train step (activations, views,
gradients) of a ResNet-50 at 224 pixels by the number of microbatches.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import numpy as np

from benchmarks.measure import write_results
from benchmarks.train_step import add_arguments, traced_step
from vicreg_jax.methods import BYOL, VICReg
from vicreg_jax.models import Head, create_backbone
from vicreg_jax.optim import OptimizerOptions, create_optimizer
from vicreg_jax.training.mesh import make_mesh, state_shardings
from vicreg_jax.training.state import init_state

_DEVICES = 8
_METHODS = {
    "vicreg": VICReg(create_backbone("resnet50"), Head((8192, 8192, 8192))),
    "byol": BYOL(create_backbone("resnet50"), Head((4096, 256)), predictor=Head((4096, 256))),
}


def state_bytes(method: VICReg | BYOL, fsdp: int) -> dict[str, int]:
    """Bytes per device of parameters, optimizer state and extra state."""
    init = partial(
        init_state,
        method=method,
        optimizer=create_optimizer(OptimizerOptions("lars"), 0.1),
        image_shape=(224, 224, 3),
        num_classes=1000,
    )
    shapes = jax.eval_shape(init, jax.random.key(0))
    shardings = state_shardings(make_mesh(fsdp=fsdp), shapes)

    def bytes_of(part: str) -> int:
        pairs = zip(jax.tree.leaves(getattr(shapes, part)), jax.tree.leaves(getattr(shardings, part)), strict=True)
        return sum(int(np.prod(to.shard_shape(array.shape))) * array.dtype.itemsize for array, to in pairs)

    return {part: bytes_of(part) for part in ("params", "opt_state", "extra_state")}


def temporary_bytes(microbatches: int, batch: int) -> int:
    """Temporary bytes per device of a step with `batch` images per device."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    settings = "--model=resnet50 --stem=imagenet --image_size=224 --canvas=224 --channels=3 --recipe=vicreg"
    sizes = f"--batch={batch * _DEVICES} --microbatches={microbatches} --head_dims 512 512"
    arguments = parser.parse_args([*settings.split(), *sizes.split()])
    return traced_step(arguments)[0].lower().compile().memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="images per device of the counted step")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", _DEVICES)
    state = {
        name: {f"fsdp={fsdp}": state_bytes(method, fsdp) for fsdp in (1, 2, 4, 8)} for name, method in _METHODS.items()
    }
    step = {f"microbatches={count}": temporary_bytes(count, arguments.batch) for count in (1, 2, 4)}
    for name, by_fsdp in state.items():
        _show(f"state, {name}", {fsdp: sum(parts.values()) for fsdp, parts in by_fsdp.items()})
    _show("temporary", step)
    write_results(arguments.output, state_bytes=state, batch=arguments.batch, temporary_bytes_of_a_step=step)


def _show(what: str, sizes: dict[str, int]) -> None:
    first = next(iter(sizes.values()))
    for name, size in sizes.items():
        print(f"{what}, {name}: {size / 2**20:.0f} MiB per device, {size / first:.3f}")


if __name__ == "__main__":
    main()
