"""Ablation of VICReg's terms: the coefficients of the paper's table 7 on the digits, three seeds each.

    python -m benchmarks.experiments.terms --jobs=2

The settings are those of configs/digits.py for 30 epochs.
"""

from benchmarks.experiments.figures import dots
from benchmarks.experiments.runner import Run, parse_arguments, run_all
from benchmarks.experiments.tables import add_table, grouped, markdown, over_seeds

# Weights of invariance, variance and covariance -> linear accuracy in % after 100 epochs on ImageNet (paper).
PAPER = {
    (25, 25, 1): "68.6",
    (50, 50, 1): "68.3",
    (10, 10, 1): "68.2",
    (5, 5, 1): "68.1",
    (1, 1, 0): "57.5",
    (1, 0, 0): "collapse",
    (25, 0, 1): "collapse",
    (0, 25, 1): "collapse",
    (1, 1, 1): "collapse",
    (1, 10, 1): "collapse",
    (10, 1, 1): "collapse",
}
RUNS = [
    Run(
        "_".join(map(str, (*weights, seed))),
        "configs/digits.py",
        {
            "method.invariance_weight": weights[0],
            "method.variance_weight": weights[1],
            "method.covariance_weight": weights[2],
            "train.epochs": 30,
            "evaluation.every_epochs": 0,
            "evaluation.labels_per_class": (5,),
            "evaluation.draws": 5,
            "seed": seed,
        },
        {"weights": f"{weights[0]}, {weights[1]}, {weights[2]}", "paper": paper, "seed": seed},
    )
    for seed in (0, 1, 2)
    for weights, paper in PAPER.items()
]


def main() -> None:
    arguments = parse_arguments(__doc__, "terms_digits")
    results = run_all(RUNS, arguments)
    table = {
        f"{weights} (paper: {rows[0]['labels']['paper']})": over_seeds(rows)
        for weights, rows in grouped(results, "weights").items()
    }
    table["random network"] = over_seeds(
        [row["baselines"]["random_init"] for row in grouped(results, "weights")["25, 25, 1"]]
    )
    add_table(arguments.output, table)
    measures = ("knn", "linear", "five_labels", "effective_rank", "embedding_std")
    print(markdown(table, measures))
    dots(arguments.output.with_suffix(".svg"), table, measures, logarithmic=("effective_rank", "embedding_std"))


if __name__ == "__main__":
    main()
