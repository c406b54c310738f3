"""Batch sizes from 32 to 1024 for VICReg, Barlow Twins and SimCLR on the digits, with equally tuned learning rates.

    python -m benchmarks.experiments.batch_size --jobs=2

For each method and batch size, one seed tries three learning rates on a held-out validation quarter of the training
images: 0.5, 1 and 2 times the peak of the digits config, scaled with the square root of the batch size, as is usual for
Adam. The best one, by the sum of kNN and linear accuracy, trains with two seeds on the whole training split. All runs
have 20 epochs: 20 updates at a batch size of 1024, 880 at 32.
"""

from collections.abc import Sequence

from benchmarks.experiments.figures import lines
from benchmarks.experiments.runner import Run, parse_arguments, run_all
from benchmarks.experiments.tables import add_table, grouped, markdown, over_seeds

METHODS = ("vicreg", "barlow_twins", "simclr")
BATCH_SIZES = (32, 256, 1024)
FACTORS = (0.5, 1.0, 2.0)
_PEAK, _PEAK_BATCH = 5e-3, 128  # of configs/digits.py


def _run(method: str, batch_size: int, factor: float, seed: int, splits: tuple[str, str], name: str) -> Run:
    peak = factor * _PEAK * (batch_size / _PEAK_BATCH) ** 0.5
    fields = {
        "train.batch_size": batch_size,
        "optim.base_lr": peak * 256 / batch_size,
        "train.epochs": 20,
        "data.train_split": splits[0],
        "data.test_split": splits[1],
        "evaluation.every_epochs": 0,
        "evaluation.labels_per_class": (5,),
        "evaluation.draws": 5,
        "seed": seed,
    }
    labels = {"method": method, "batch_size": batch_size, "factor": factor, "seed": seed}
    return Run(name, f"configs/digits.py:{method}", fields, labels)


def _cells() -> Sequence[tuple[str, int]]:
    return [(method, batch_size) for batch_size in BATCH_SIZES for method in METHODS]


def main() -> None:
    arguments = parse_arguments(__doc__, "batch_size_digits")
    validation = ("train[25%:]", "train[:25%]")
    tuning = {
        (*cell, factor): _run(*cell, factor, 0, validation, f"tune_{cell[0]}_{cell[1]}_{factor}")
        for cell in _cells()
        for factor in FACTORS
    }
    tuned = run_all(list(tuning.values()), arguments)

    def validation_accuracy(method: str, batch_size: int, factor: float) -> float:
        row = tuned[tuning[method, batch_size, factor].name]
        return row["knn_accuracy"] + row["linear_accuracy"]

    best = {cell: max(FACTORS, key=lambda factor: validation_accuracy(*cell, factor)) for cell in _cells()}
    runs = [
        _run(*cell, best[cell], seed, ("train", "test"), f"{cell[0]}_{cell[1]}_{seed}")
        for seed in (0, 1)
        for cell in _cells()
    ]
    results = run_all(runs, arguments)
    series = {
        method: {
            size: over_seeds(at_size)
            for size, at_size in grouped(
                {name: row for name, row in results.items() if row["labels"]["method"] == method}, "batch_size"
            ).items()
        }
        for method in METHODS
    }
    table = {
        f"{method}, {size} (rate x {best[method, size]:g})": row
        for method, rows in series.items()
        for size, row in rows.items()
    }
    add_table(arguments.output, table)
    print(markdown(table, ("knn", "linear", "five_labels", "effective_rank")))
    lines(arguments.output.with_suffix(".svg"), series, ("knn", "linear", "five_labels"), "batch size")


if __name__ == "__main__":
    main()
