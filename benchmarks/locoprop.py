"""LocoProp, first-order optimizers and second-order peers on a Fashion-MNIST autoencoder, with equal tuning budgets.

    python -m benchmarks.locoprop --manual_dir=DIR      # DIR holds the IDX files; without it, tfds downloads them

Every method has the same number of trials, which are points of a low-discrepancy sequence in its search space. The
settings with the minimum training loss after `--trial_epochs` epochs are trained again for `--epochs` epochs with each
seed. The learning rate rises linearly during the first epoch and then falls linearly to 0. All methods start from the
same parameters and see the same minibatches. Each training runs in a separate process: kfac-jax and distributed Shampoo
need separate environments, created under `--environments`. Seconds count training steps only, of the first seed, since
the other seeds may share the machine.

Finally the best first-order method trains once more, for as long as M took.

Finished trainings are read from the JSON file and not repeated; the figure of the same name lies beside it. `--only`
restricts the methods that run; the table always lists all finished ones.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.locoprop_trial import BACKPROPAGATION, METHODS
from benchmarks.measure import environment
from vicreg_jax.data import load_dataset

ROOT = Path(__file__).parent.parent
# Minimum and maximum of each setting; trials are spread between them on a logarithmic scale. `rate` is the effective
# learning rate under momentum, the learning rate divided by 1 - momentum. Adam averages gradients instead of summing.
_LOCAL = {"rate": (1e-3, 1e-1), "one_minus_momentum": (1e-3, 1e-1), "activation_rate": (1, 100)}
SPACES: dict[str, dict[str, tuple[float, float]]] = {
    "m": _LOCAL,
    "s": _LOCAL,
    "sgd": {"rate": (1e-4, 1e-1)},
    "momentum": {"rate": (1e-4, 1e-1), "one_minus_momentum": (1e-3, 1e-1)},
    "nesterov": {"rate": (1e-4, 1e-1), "one_minus_momentum": (1e-3, 1e-1)},
    "adagrad": {"rate": (1e-3, 1e-1)},
    "rmsprop": {"rate": (1e-4, 1e-1), "one_minus_momentum": (1e-3, 1e-1)},
    "adam": {"learning_rate": (1e-4, 1e-1), "one_minus_momentum": (1e-2, 1)},
    "kfac": {"rate": (1e-2, 1e1), "one_minus_momentum": (1e-2, 1), "damping": (1e-2, 1e2)},
    "shampoo": {"rate": (1e-4, 1e-1), "one_minus_momentum": (1e-3, 1e-1), "epsilon": (1e-8, 1e-4)},
}
PEERS = {
    "kfac": ("kfac-jax==0.0.8", "jax==0.9.0", "flax", "optax"),
    "shampoo": ("precondition-opt==0.3.0", "jax==0.9.0", "flax", "optax", "chex", "absl-py"),
}


def settings_of(method: str, trial: int) -> dict[str, float]:
    """The settings of a trial, counted from 1: a point of the Halton sequence between the bounds."""
    point = {}
    for (name, (low, high)), base in zip(SPACES[method].items(), (2, 3, 5), strict=False):
        point[name] = low * (high / low) ** _radical_inverse(trial, base)
    one_minus_momentum = point.pop("one_minus_momentum", None)
    if "rate" in point:
        point["learning_rate"] = point.pop("rate") * (one_minus_momentum or 1.0)
    if one_minus_momentum is not None:
        point["momentum"] = 1 - one_minus_momentum
    return {name: float(f"{value:.4g}") for name, value in point.items()}


def _radical_inverse(number: int, base: int) -> float:
    value, digit = 0.0, 1.0
    while number:
        digit /= base
        number, remainder = divmod(number, base)
        value += digit * remainder
    return value


class Benchmark:
    """Runs trainings and records their results in one JSON file."""

    def __init__(self, arguments: argparse.Namespace):
        self._arguments = arguments
        self.rows: list[dict[str, Any]] = []
        if arguments.output.exists():
            self.rows = json.loads(arguments.output.read_text())["runs"]

    def run(self, method: str, settings: dict[str, float], *, seed: int, epochs: int) -> dict[str, Any]:
        """The result of a training: its `curve`, or the last line of its error as `failed`."""
        key = {"method": method, "settings": settings, "seed": seed, "epochs": epochs}
        for row in self.rows:
            if all(row[name] == value for name, value in key.items()):
                return row
        line = [self._python(method), "-m", "benchmarks.locoprop_trial", f"--method={method}", f"--seed={seed}"]
        line += [f"--rows={self._arguments.rows}", f"--epochs={epochs}", f"--settings={json.dumps(settings)}"]
        variables = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(self._arguments.environments / "compiled")}
        done = subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            result = {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
        else:
            result = {"curve": json.loads(done.stdout.splitlines()[-1])}
        row = {**key, **result, "load_average": os.getloadavg()[0]}
        self.rows.append(row)
        self.write()
        print(f"{method} seed {seed} {settings}: {_summary(row)}", flush=True)
        return row

    def write(self, **more: Any) -> None:
        """Writes the whole file atomically: the results of all trainings, and `more`."""
        partial = self._arguments.output.with_suffix(".partial")
        partial.write_text(json.dumps(environment() | more | {"runs": self.rows}, indent=1) + "\n")
        os.replace(partial, self._arguments.output)

    def _python(self, method: str) -> str:
        if method not in PEERS:
            return sys.executable
        home = self._arguments.environments / method
        if not (home / "done").exists():
            venv.create(home, with_pip=True)
            subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", *PEERS[method]], check=True)
            (home / "done").touch()
        return str(home / "bin" / "python")


def _summary(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}"
    last = row["curve"][-1]
    return f"training loss {last['train_loss']:.2f}, {last['seconds']:.1f} s in the last epoch"


def _final_loss(row: dict[str, Any]) -> float:
    value = row["curve"][-1]["train_loss"] if "curve" in row else float("nan")
    return value if np.isfinite(value) else float("inf")


def table(rows: Sequence[dict[str, Any]], epochs: int) -> dict[str, Any]:
    """By method: settings, losses over seeds after some epochs, and seconds per epoch of the first seed."""
    found: dict[str, Any] = {}
    for method in METHODS:
        runs = [row for row in rows if row["method"] == method and row["epochs"] == epochs and "curve" in row]
        if runs:
            found[method] = {
                "settings": runs[0]["settings"],
                **{f"train_loss_{e}": _over([r["curve"][e]["train_loss"] for r in runs]) for e in (1, 3, epochs)},
                "test_loss": _over([r["curve"][-1]["test_loss"] for r in runs]),
                "seconds_per_epoch": statistics.median(e["seconds"] for e in runs[0]["curve"][1:]),
            }
    for row in found.values():
        if "adam" in found:
            row["seconds_over_adam"] = row["seconds_per_epoch"] / found["adam"]["seconds_per_epoch"]
    return found


def _over(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "least": min(values), "most": max(values)}


def equal_seconds(benchmark: Benchmark, found: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The losses of the best first-order method in the time that M takes for `epochs` epochs."""
    first_order = [method for method in found if method in BACKPROPAGATION]
    if "m" not in found or not first_order:
        return {}
    best = min(first_order, key=lambda method: found[method][f"train_loss_{epochs}"]["mean"])
    more = round(epochs * found["m"]["seconds_per_epoch"] / found[best]["seconds_per_epoch"])
    row = benchmark.run(best, found[best]["settings"], seed=0, epochs=more)
    return {"method": best, "epochs": more, "train_loss": _final_loss(row), "test_loss": row["curve"][-1]["test_loss"]}


def draw(path: Path, rows: Sequence[dict[str, Any]], epochs: int) -> None:
    """Plots the training loss by epochs and by seconds: one line per method, the mean over its seeds."""
    import matplotlib.pyplot as plt

    from benchmarks.experiments.figures import save

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for index, method in enumerate(METHODS):
        runs = [row for row in rows if row["method"] == method and row["epochs"] == epochs and "curve" in row]
        if not runs:
            continue
        losses = np.mean([[e["train_loss"] for e in run["curve"]] for run in runs], axis=0)
        seconds = np.cumsum([e["seconds"] for e in runs[0]["curve"]])
        style = {"color": f"C{index}", "label": method, "linewidth": 2 if method in ("m", "s") else 1.2}
        axes[0].plot(np.arange(1, epochs + 1), losses[1:], **style)
        axes[1].plot(seconds[1:], losses[1:], **style)
    for axis, label in zip(axes, ("epochs", "seconds of training steps"), strict=True):
        axis.set_xlabel(label)
        axis.grid(color="0.9")
    axes[1].set_xscale("log")
    axes[0].set_ylabel("training loss")
    axes[0].legend(frameon=False, fontsize=8, ncols=2)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manual_dir", help="directory of the IDX files")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--trial_epochs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--environments", type=Path, default=Path("runs/locoprop_benchmark"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/locoprop_fashion_mnist.json"))
    arguments = parser.parse_args()
    arguments.environments = arguments.environments.absolute()
    arguments.environments.mkdir(parents=True, exist_ok=True)
    arguments.rows = arguments.environments / "fashion_mnist.npz"
    if not arguments.rows.exists():
        np.savez(arguments.rows, **{split: _rows(split, arguments.manual_dir) for split in ("train", "test")})
    benchmark = Benchmark(arguments)
    best = {}
    for method in arguments.only:
        trials = [
            benchmark.run(method, settings_of(method, trial), seed=0, epochs=arguments.trial_epochs)
            for trial in range(1, arguments.trials + 1)
        ]
        best_trial = min(trials, key=_final_loss)
        if np.isfinite(_final_loss(best_trial)):
            best[method] = best_trial["settings"]
        else:
            print(f"{method}: no trial finished")
    for seed in range(arguments.seeds):
        for method, settings in best.items():
            benchmark.run(method, settings, seed=seed, epochs=arguments.epochs)
    found = table(benchmark.rows, arguments.epochs)
    benchmark.write(
        budget={name: getattr(arguments, name) for name in ("trials", "trial_epochs", "epochs", "seeds")},
        spaces=SPACES,
        table=found,
        equal_seconds=equal_seconds(benchmark, found, arguments.epochs),
    )
    draw(arguments.output.with_suffix(".svg"), benchmark.rows, arguments.epochs)


def _rows(split: str, manual_dir: str | None) -> np.ndarray:
    data = load_dataset("fashion_mnist", split, manual_dir=manual_dir, image_size=28)
    return np.stack([data[index]["image"].reshape(-1) for index in range(len(data))])


if __name__ == "__main__":
    main()
