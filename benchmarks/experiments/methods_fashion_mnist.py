"""Every method on Fashion-MNIST with a ResNet-18, beside raw pixels, a random and a supervised network; for a GPU.

    python -m benchmarks.experiments.methods_fashion_mnist --seconds=540

The settings are those of configs/fashion_mnist.py; `--set=train.epochs=...` trains for fewer than its 200 epochs. The
command stops after `--seconds` and exits with 75 if runs are left. Rerun the same command to resume: unfinished runs
resume from their checkpoints in `--runs`, finished ones are read from the JSON file. Offline, add
`--set=data.manual_dir=/usr/share/datasets/fashion-mnist`.
"""

import ast
import json
import sys
import time
from typing import Any

from benchmarks.experiments.figures import dots
from benchmarks.experiments.runner import Run, parse_arguments, run_all
from benchmarks.experiments.supervised import train_supervised
from benchmarks.experiments.tables import add_table, grouped, markdown, over_seeds
from benchmarks.measure import environment
from configs.fashion_mnist import get_config
from vicreg_jax.methods import METHODS

SUPERVISED_EPOCHS = 30
_SUPERVISED_SECONDS = 400  # it has no checkpoints, so it starts only if this much time is left

RUNS = [
    Run(
        f"{method}_0",
        f"configs/fashion_mnist.py:{method}",
        {"seed": 0, "evaluation.every_epochs": 0, "checkpoint.every_steps": 2340},
        {"method": method, "seed": 0},
    )
    for method in METHODS
]


def _parse(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value  # a string


def main() -> None:
    arguments = parse_arguments(__doc__, "methods_fashion_mnist")
    results = run_all(RUNS, arguments)
    supervised_file = arguments.output.with_name(arguments.output.stem + "_supervised.json")
    if not supervised_file.exists():
        if arguments.deadline - time.monotonic() < _SUPERVISED_SECONDS:
            print("time is up, the supervised network is left; rerun the same command to resume")
            sys.exit(75)
        config = get_config()
        for field, _, value in (setting.partition("=") for setting in arguments.set):
            config.update_from_flattened_dict({field: _parse(value)})
        config.train.epochs = min(SUPERVISED_EPOCHS, config.train.epochs)
        facts = environment()
        supervised_file.write_text(json.dumps(facts | {"results": train_supervised(config)}, indent=1) + "\n")
    supervised = json.loads(supervised_file.read_text())["results"]
    table = {method: over_seeds(rows) for method, rows in grouped(results, "method").items()}
    for baseline in ("raw_pixels", "random_init"):
        table[baseline] = over_seeds([results["vicreg_0"]["baselines"][baseline]])
    table["supervised"] = over_seeds([supervised])
    add_table(arguments.output, table)
    measures = ("knn", "linear", "five_labels", "effective_rank", "seconds")
    print(markdown(table, measures))
    print(f"supervised classifier: {supervised['classifier_accuracy']:.4f}")
    dots(arguments.output.with_suffix(".svg"), table, ("knn", "linear", "five_labels"))


if __name__ == "__main__":
    main()
