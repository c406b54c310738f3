"""How far the loss changes with the number of devices, and with a perturbation of one unit in the last place.

    python -m benchmarks.devices --learning_rates 0.001 0.01

Runs thirty steps of `configs/digits.py` on 1, 2, 4 and 8 CPU devices, and with `fsdp` of 2 and 4. Reports the maximum
relative difference from one device. For comparison it perturbs each initial parameter by at most one unit in the last
place on one device: this is how training itself amplifies rounding.
"""

import argparse
import dataclasses
import runpy
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType

from benchmarks.measure import write_results
from vicreg_jax.tasks.pretrain.build import build
from vicreg_jax.tasks.pretrain.task import Pretrain
from vicreg_jax.training.mesh import AXES, state_shardings

_STEPS = 30
_MESHES = {"data=2": (2, 1), "data=4": (4, 1), "data=8": (8, 1), "fsdp=2": (4, 2), "fsdp=4": (2, 4)}


def loss_curve(learning_rate: float, mesh_shape: tuple[int, int], units: float = 0.0) -> np.ndarray:
    """The losses of the first steps; `units` in the last place is the maximum perturbation of initial parameters."""
    config = runpy.run_path("configs/digits.py")["get_config"]()
    config.optim.base_lr = learning_rate
    experiment = build(config)
    devices = jax.devices()[: mesh_shape[0] * mesh_shape[1]]
    mesh = jax.make_mesh(mesh_shape, AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)
    task = Pretrain(dataclasses.replace(experiment, mesh=mesh))
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    shardings = state_shardings(mesh, shapes)
    state = jax.jit(task.init, out_shardings=shardings)(jax.random.key(0))
    random = np.random.default_rng(0)

    def perturbed(array: jax.Array) -> jax.Array:
        values = np.asarray(array)
        return jax.device_put(values + units * random.uniform(-1, 1, values.shape) * np.spacing(values), array.sharding)

    if units:
        state = state.replace(params=jax.tree.map(lambda p: perturbed(p).astype(p.dtype), state.params))
    step, batches = task.compile(shapes, shardings, start_step=0), task.batches(start_step=0)
    losses = []
    for _ in range(_STEPS):
        state, metrics = step(state, next(batches))
        losses.append(float(metrics["loss"]))
    return np.array(losses)


def measure(learning_rate: float) -> dict[str, float]:
    """The maximum relative difference of the loss from one device, by kind of mesh."""
    one = loss_curve(learning_rate, (1, 1))
    others = {name: loss_curve(learning_rate, shape) for name, shape in _MESHES.items()}
    others["one device, one unit in the last place off"] = loss_curve(learning_rate, (1, 1), units=1.0)
    return {name: float(np.max(np.abs(losses - one) / np.abs(one))) for name, losses in others.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[0.001, 0.01], help="config.optim.base_lr")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    results = {str(rate): measure(rate) for rate in arguments.learning_rates}
    for rate, differences in results.items():
        for name, difference in differences.items():
            print(f"learning rate {rate}  {name:45s} {difference:.1e}")
    write_results(arguments.output, steps=_STEPS, largest_relative_difference_of_the_loss=results)


if __name__ == "__main__":
    main()
