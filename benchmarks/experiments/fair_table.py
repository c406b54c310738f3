"""VICReg's family on one backbone, with one budget of tuning each: two views and multi-crop, three seeds.

    python -m benchmarks.experiments.fair_table --jobs=2
    python -m benchmarks.experiments.fair_table --config=configs/fashion_mnist.py --epochs=20 --seconds=540 \
        --output=benchmarks/results/gpu_fair_table_fashion_mnist.json                      # for a GPU; --vit: its ViT

Tuning: for two views, and again for multi-crop, each method has five trials on a validation quarter of the training
split: the settings of its config, the learning rate halved and doubled, and the method's own setting (`OWN`) halved and
doubled. The best with five labels per class is trained on the whole training split. Multi-crop has half the epochs and
twice the views, so that the network sees as many images. The command stops after `--seconds` and exits with 75 if runs
are left. Rerun it to resume.
"""

import copy
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
# The weights of the papers, which are for multi-crop. With the smaller ones of configs/digits.py, which are for two
# views, it collapses or nearly so (benchmarks/results/multi_crop_weights_digits.json).
MULTI_CROP_WEIGHTS = {
    "lejepa": {"method.sigreg_weight": 0.05},
    "visreg": {"method.visreg_weight": 0.9},
}
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


def changes_of(config: Any, views: str) -> dict[str, Any]:
    """What a number of views changes of a method's config: multi-crop has two local views more, in half the epochs."""
    if views == "two":
        return {}
    weights = MULTI_CROP_WEIGHTS.get(config.method.name, {})
    local = {"augment.local_views": 2, **LOCAL_VIEWS[config.data.image_size]}
    return {"train.epochs": config.train.epochs // 2, **local, **weights}


def tuning_runs(configs: dict[str, Any], common: dict[str, Any], views: str) -> list[Run]:
    """All trials of all methods, on the validation part.

    Args:
        configs: config of each method, by the file and argument that it is made from.
        common: what every run changes of its config.
        views: one of `VIEWS`.
    """
    return [
        _run(f"{_name(config, views)}_{trial}", source, 0, common | VALIDATION | change, trial=trial)
        for source, config in configs.items()
        if _takes(config, views)
        for trial, change in _settings(config, views).items()
    ]


def final_runs(configs: dict[str, Any], common: dict[str, Any], views: str, tuned: dict[str, Row]) -> list[Run]:
    """The runs of the table: each method with the best of its trials.

    Args:
        configs, common, views: as for `tuning_runs`.
        tuned: results of the trials, by name of the run.
    """
    runs = []
    for seed in SEEDS:
        for source, config in configs.items():
            if _takes(config, views):
                method, settings = config.method.name, _settings(config, views)
                trial_rows = {trial: tuned[f"{_name(config, views)}_{trial}"] for trial in settings}
                best = max(settings, key=lambda trial, rows=trial_rows: _five_labels(rows[trial]))
                change = common | settings[best]
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


def _settings(config: Any, views: str) -> dict[str, dict[str, Any]]:
    """The trials, and what each changes of the method's config."""
    changes = changes_of(config, views)
    config = copy.deepcopy(config)
    config.update_from_flattened_dict(changes)
    return {trial: changes | change for trial, change in trials(config).items()}


def _takes(config: Any, views: str) -> bool:
    return views == "two" or METHODS[config.method.name].takes_many_views


def _name(config: Any, views: str) -> str:
    return config.method.name if views == "two" else f"{config.method.name}_{views}"


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
    results = {}
    for views in VIEWS:
        tuned = run_all(tuning_runs(configs, common, views), arguments)
        results |= run_all(final_runs(configs, common, views, tuned), arguments)
    table = table_of(results)
    add_table(arguments.output, table)
    print(markdown(table, ("knn", "linear", "five_labels", "effective_rank")))
    dots(arguments.output.with_suffix(".svg"), table, ("knn", "linear", "five_labels"))


if __name__ == "__main__":
    main()
