"""Every method on the digits with three seeds, beside raw pixels and random networks.

python -m benchmarks.experiments.methods_digits --jobs=2
"""

from benchmarks.experiments.figures import dots
from benchmarks.experiments.runner import Run, parse_arguments, run_all
from benchmarks.experiments.tables import add_table, grouped, markdown, over_seeds
from vicreg_jax.methods import METHODS

SEEDS = (0, 1, 2)
RUNS = [
    Run(
        f"{method}_{seed}",
        f"configs/digits.py:{method}",
        {"seed": seed, "evaluation.every_epochs": 0},
        {"method": method, "seed": seed},
    )
    for seed in SEEDS
    for method in METHODS
]


def main() -> None:
    arguments = parse_arguments(__doc__, "methods_digits")
    results = run_all(RUNS, arguments)
    table = {method: over_seeds(rows) for method, rows in grouped(results, "method").items()}
    for baseline in ("raw_pixels", "random_init"):
        table[baseline] = over_seeds([results[f"vicreg_{seed}"]["baselines"][baseline] for seed in SEEDS])
    add_table(arguments.output, table)
    print(markdown(table, ("knn", "linear", "five_labels", "effective_rank", "seconds")))
    dots(arguments.output.with_suffix(".svg"), table, ("knn", "linear", "five_labels", "effective_rank"))


if __name__ == "__main__":
    main()
