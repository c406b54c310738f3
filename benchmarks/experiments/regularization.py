"""The variance and covariance terms added to other methods: table 4 of the VICReg paper, on the digits.

    python -m benchmarks.experiments.regularization --jobs=2

Every row runs without the terms, with the variance term, and with both, with two seeds each. The settings are those of
configs/digits.py for 15 epochs. "BN" is BatchNorm in head and predictor; the backbone always has it. The last rows
compute the terms on the directions of the projections (`method.regularize_directions`).
"""

from typing import Any

from benchmarks.experiments.figures import dots
from benchmarks.experiments.runner import Run, parse_arguments, run_all
from benchmarks.experiments.tables import add_table, grouped, markdown, over_seeds

_NO_BATCH_NORM = {"model.head_batch_norm": False}
_DIRECTIONS = {"method.regularize_directions": True}
_NO_PREDICTOR: dict[str, Any] = {"model.predictor_dims": ()}

# Row of the table -> method and changed fields. Rows marked * are not in the paper's table.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "BYOL: target, predictor, BN": ("byol", {}),
    "BYOL: target, predictor *": ("byol", _NO_BATCH_NORM),
    "BYOL: predictor, BN *": ("byol", {"method.stop_gradient": False}),
    "SimSiam: stop-gradient, predictor, BN": ("simsiam", {}),
    "SimSiam: stop-gradient, predictor": ("simsiam", _NO_BATCH_NORM),
    "SimSiam: stop-gradient": ("simsiam", _NO_BATCH_NORM | _NO_PREDICTOR),
    "SimSiam: predictor, BN *": ("simsiam", {"method.stop_gradient": False}),
    "VICReg: predictor": ("vicreg", _NO_BATCH_NORM | {"model.predictor_dims": (512, 512)}),
    "VICReg: predictor, BN": ("vicreg", {"model.predictor_dims": (512, 512)}),
    "VICReg: BN": ("vicreg", {}),
    "VICReg:": ("vicreg", _NO_BATCH_NORM),
    "BYOL: target, predictor; of directions *": ("byol", _NO_BATCH_NORM | _DIRECTIONS),
    "SimSiam: stop-gradient, predictor; of directions *": ("simsiam", _NO_BATCH_NORM | _DIRECTIONS),
    "SimSiam: stop-gradient; of directions *": ("simsiam", _NO_BATCH_NORM | _NO_PREDICTOR | _DIRECTIONS),
}
# Variance and covariance weights for VICReg, and for the others (paper, appendix C.4).
TERMS = {"none": ((0.0, 0.0), (0.0, 0.0)), "variance": ((25.0, 0.0), (1.0, 0.0)), "both": ((25.0, 1.0), (1.0, 0.01))}


def _runs() -> list[Run]:
    runs = []
    for seed in (0, 1):
        for number, (row, (method, changes)) in enumerate(ROWS.items()):
            for terms, (vicreg_weights, other_weights) in TERMS.items():
                if terms == "none" and "of directions" in row:
                    continue  # equal to the row above without terms
                variance, covariance = vicreg_weights if method == "vicreg" else other_weights
                fields = {
                    **changes,
                    "method.variance_weight": variance,
                    "method.covariance_weight": covariance,
                    "train.epochs": 15,
                    "evaluation.every_epochs": 0,
                    "evaluation.labels_per_class": (5,),
                    "evaluation.draws": 5,
                    "seed": seed,
                }
                labels = {"row": f"{row} + {terms}" if terms != "none" else row, "seed": seed}
                runs.append(Run(f"{number}_{terms}_{seed}", f"configs/digits.py:{method}", fields, labels))
    return runs


RUNS = _runs()


def main() -> None:
    arguments = parse_arguments(__doc__, "regularization_digits")
    results = run_all(RUNS, arguments)
    table = {row: over_seeds(rows) for row, rows in grouped(results, "row").items()}
    add_table(arguments.output, table)
    measures = ("knn", "linear", "five_labels", "effective_rank", "embedding_std")
    print(markdown(table, measures))
    dots(arguments.output.with_suffix(".svg"), table, measures, logarithmic=("effective_rank", "embedding_std"))


if __name__ == "__main__":
    main()
