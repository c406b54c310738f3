"""Two views against multi-crop on the digits, for VICReg with three seeds: as many views through the network in each.

python -m benchmarks.experiments.multi_crop_digits --jobs=2
"""

from benchmarks.experiments.runner import Run, parse_arguments, run_all
from benchmarks.experiments.tables import add_table, grouped, markdown, over_seeds

SEEDS = (0, 1, 2)
LOCAL = {"augment.local_size": 6, "augment.local_crop_area": (0.3, 0.6)}
# Epochs times views is 180 in every row.
ROWS = {
    "2 views": {"train.epochs": 90},
    "2 + 2 views": {"train.epochs": 45, "augment.local_views": 2, **LOCAL},
    "2 + 4 views": {"train.epochs": 30, "augment.local_views": 4, **LOCAL},
    "4 views": {"train.epochs": 45, "augment.global_views": 4},
}
RUNS = [
    Run(
        f"{row.replace(' ', '_')}_{seed}",
        "configs/digits.py",
        {"seed": seed, "evaluation.every_epochs": 0, **overrides},
        {"views": row, "seed": seed},
    )
    for seed in SEEDS
    for row, overrides in ROWS.items()
]


def main() -> None:
    arguments = parse_arguments(__doc__, "multi_crop_digits")
    results = run_all(RUNS, arguments)
    table = {row: over_seeds(rows) for row, rows in grouped(results, "views").items()}
    add_table(arguments.output, table)
    print(markdown(table, ("knn", "linear", "five_labels", "effective_rank", "seconds")))


if __name__ == "__main__":
    main()
