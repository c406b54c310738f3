"""Is pretraining worth it? Fine-tuning with 1% and 10% of Fashion-MNIST's labels, beside training from scratch.

    python -m benchmarks.experiments.finetune_fashion_mnist                          # pretrains first
    python -m benchmarks.experiments.finetune_fashion_mnist --encoder=runs/fashion_cpu

The encoder is that of configs/fashion_mnist.py:cpu, with seed 0. Each of three seeds draws other labels, and trains
both networks with the same labels on the same batches. Offline, add `--set=data.manual_dir=DIR`. `--set` changes
pretraining too.
"""

from benchmarks.experiments.runner import Run, parse_arguments, run_all
from benchmarks.experiments.tables import Row, add_table, grouped, markdown, over_seeds

SEEDS = (0, 1, 2)
# Share of the labels -> what it changes of configs/finetune.py:fashion_mnist.
LABELS: dict[str, dict[str, object]] = {
    "1%": {},
    "10%": {"train.epochs": 10, "train.batch_size": 128},
}
ENCODER = Run(
    "encoder",
    "configs/fashion_mnist.py:cpu",
    {"seed": 0, "evaluation.labels_per_class": (5,), "evaluation.draws": 3},
    {"seed": 0},
)


def runs(encoder: str) -> list[Run]:
    return [
        Run(
            f"{labels.removesuffix('%')}_percent_{seed}",
            "configs/finetune.py:fashion_mnist",
            {"seed": seed, "model.init_from": encoder, "finetune.labels": labels, **changes},
            {"labels": labels, "seed": seed},
        )
        for labels, changes in LABELS.items()
        for seed in SEEDS
    ]


def main() -> None:
    arguments = parse_arguments(
        __doc__,
        "finetune_fashion_mnist",
        encoder={"help": "a run, an export or a file of weights; default: pretrain one in --runs"},
    )
    encoder = arguments.encoder
    if encoder is None:
        run_all([ENCODER], arguments)
        encoder = str(arguments.runs / ENCODER.name)
    results = run_all(runs(encoder), arguments)
    table = {}
    for labels, rows in grouped(results, "labels").items():
        scratch: list[Row] = [row["baselines"]["from_scratch"] for row in rows]
        table[f"{labels} of the labels, fine-tuned"] = over_seeds(rows)
        table[f"{labels} of the labels, from scratch"] = over_seeds(scratch)
    add_table(arguments.output, table)
    print(markdown(table, ("accuracy", "seconds")))


if __name__ == "__main__":
    main()
