"""VICReg's family on one backbone, with one budget of tuning each: two views and multi-crop, three seeds.

    python -m benchmarks.experiments.fair_table --jobs=2
    python -m benchmarks.experiments.fair_table --config=configs/fashion_mnist.py --epochs=20 --seconds=540 \
        --output=benchmarks/results/gpu_fair_table_fashion_mnist.json                      # for a GPU; --vit: its ViT

Tuning: each method has five trials on a validation quarter of the training split: the settings of its config, the
learning rate halved and doubled, and the method's own setting (`OWN`) halved and doubled. The best with five labels per
class is trained on the whole training split. Multi-crop has half the epochs and twice the views, so that the network
sees as many images. The command stops after `--seconds` and exits with 75 if runs are left. Rerun it to resume.
"""

import importlib
from pathlib import Path
from typing import Any

from benchmarks.experiments.figures import dots
from benchmarks.experiments.multi_crop_digits import LOCAL
from benchmarks.experiments.runner import Run, parse_arguments, run_all
from benchmarks.experiments.tables import MEASURES, Row, Table, add_table, markdown, over_seeds
from vicreg_jax.methods import METHODS

SEEDS = (0, 1, 2)
# The setting in which each method differs most from the others.
OWN = {
    "vicreg": "covariance_weight",
    "barlow_twins": "redundancy_weight",
    "lejepa": "sigreg_weight",
    "visreg": "visreg_weight",
    "corinfomax": "invariance_weight",
    "simclr": "temperature",
    "byol": "momentum",
}
VIEWS = {"two": "", "multi_crop": ", multi-crop"}
VALIDATION = {"data.train_split": "train[25%:]", "data.test_split": "train[:25%]"}
# By the side of the images in pixels.
LOCAL_VIEWS = {
    8: LOCAL,
    28: {"augment.local_size": 16, "augment.local_crop_area": (0.08, 0.5)},
}


def trials(config: Any) -> dict[str, dict[str, Any]]:
    """The settings that are tried, by name: what each changes of a method's config."""
    own, rate = OWN[config.method.name], config.optim.base_lr
    value = config.method[own]

    def scaled(factor: float) -> float:
        if own == "momentum":
            return 1 - (1 - value) * factor
        if own in ("sigreg_weight", "visreg_weight"):  # the other term has 1 - value
            return value * factor / (1 - value + value * factor)
        return value * factor

    return {
        "config": {},
        "half_rate": {"optim.base_lr": rate / 2},
        "twice_rate": {"optim.base_lr": rate * 2},
        "half_own": {f"method.{own}": scaled(0.5)},
        "twice_own": {f"method.{own}": scaled(2.0)},
    }


def tuning_runs(configs: dict[str, Any], common: dict[str, Any]) -> list[Run]:
    """All trials of all methods, on the validation part.

    Args:
        configs: config of each method, by the file and argument that it is made from.
        common: what every run changes of its config.
    """
    return [
        _run(f"{config.method.name}_{trial}", source, 0, common | VALIDATION | change, trial=trial)
        for source, config in configs.items()
        for trial, change in trials(config).items()
    ]


def final_runs(configs: dict[str, Any], common: dict[str, Any], tuned: dict[str, Row]) -> list[Run]:
    """The runs of the table: each method with the best of its trials.

    Args:
        configs, common: as for `tuning_runs`.
        tuned: results of the trials, by name of the run.
    """
    runs = []
    for seed in SEEDS:
        for source, config in configs.items():
            method, settings = config.method.name, trials(config)
            best = max(settings, key=lambda trial, method=method: _five_labels(tuned[f"{method}_{trial}"]))
            for views in VIEWS if METHODS[method].takes_many_views else ("two",):
                change = common | settings[best] | (_multi_crop(config) if views == "multi_crop" else {})
                runs.append(_run(f"{method}_{views}_{seed}", source, seed, change, trial=best, views=views))
    return runs


def table_of(results: dict[str, Row]) -> Table:
    """Mean, minimum and maximum over seeds for each method and number of views, and for the baselines."""
    groups: dict[str, list[Row]] = {}
    for row in results.values():
        method = row["command"][0].split(":")[1].split(",")[0]
        groups.setdefault(method + VIEWS[row["labels"]["views"]], []).append(row)
    table = {name: over_seeds(rows) for name, rows in groups.items()}
    for baseline in ("raw_pixels", "random_init"):
        table[baseline] = over_seeds([results[f"vicreg_two_{seed}"]["baselines"][baseline] for seed in SEEDS])
    return table


def _run(name: str, source: str, seed: int, change: dict[str, Any], **labels: str) -> Run:
    return Run(name, source, {"seed": seed, "evaluation.every_epochs": 0, **change}, {"seed": seed, **labels})


def _multi_crop(config: Any) -> dict[str, Any]:
    """Two local views more, in half the epochs."""
    local = LOCAL_VIEWS[config.data.image_size]
    return {"train.epochs": config.train.epochs // 2, "augment.local_views": 2, **local}


def _five_labels(row: Row) -> float:
    return MEASURES["five_labels"][1](row) or 0.0


def main() -> None:
    arguments = parse_arguments(
        __doc__,
        "fair_table",
        config={"default": "configs/digits.py", "help": "a config with all of these methods"},
        vit={"action": "store_true", "help": "the ViT of the config"},
        epochs={"type": int, "help": "epochs with two views; default: the config's"},
    )
    name, suffix = Path(arguments.config).stem, ",vit" if arguments.vit else ""
    arguments.runs /= name + suffix
    get_config = importlib.import_module(f"configs.{name}").get_config
    configs = {f"{arguments.config}:{method}{suffix}": get_config(method + suffix) for method in OWN}
    common = {"train.epochs": arguments.epochs} if arguments.epochs else {}
    for config in configs.values():
        config.update_from_flattened_dict(common)
    tuned = run_all(tuning_runs(configs, common), arguments)
    results = run_all(final_runs(configs, common, tuned), arguments)
    table = table_of(results)
    add_table(arguments.output, table)
    print(markdown(table, ("knn", "linear", "five_labels", "effective_rank")))
    dots(arguments.output.with_suffix(".svg"), table, ("knn", "linear", "five_labels"))


if __name__ == "__main__":
    main()
