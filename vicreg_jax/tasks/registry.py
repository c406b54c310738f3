"""The tasks by the name in `config.task`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import Table, did_you_mean, from_json
from vicreg_jax.runtime import coordination
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.agreement import require_same_run
from vicreg_jax.tasks.dry_run import dry_run
from vicreg_jax.tasks.embed.task import embed
from vicreg_jax.tasks.evaluate.task import evaluate
from vicreg_jax.tasks.export import export
from vicreg_jax.tasks.locoprop.task import TrainAutoencoder
from vicreg_jax.tasks.pretrain.task import Pretrain
from vicreg_jax.tasks.run import run
from vicreg_jax.tasks.smt.task import FitTransform
from vicreg_jax.tasks.supervised.finetune import Finetune
from vicreg_jax.tasks.supervised.linear import Linear
from vicreg_jax.tasks.task import Task

TASKS: Mapping[str, type[Task]] = {
    "pretrain": Pretrain,
    "linear": Linear,
    "finetune": Finetune,
    "smt": FitTransform,
    "locoprop": TrainAutoencoder,
}
_WITHOUT_TRAINING = {"embed": embed, "evaluate": evaluate, "export": export}
_NAMES = ("pretrain", "linear", "finetune", "evaluate", "embed", "export", "smt", "locoprop")


def run_task(config: ConfigDict, workdir: Path) -> None:
    """Runs the task that the config names.

    Raises:
        InputError: an unknown task, other bad input, or processes that disagree.
    """
    _check_name(config.task)
    if coordination.is_connected():
        require_same_run(config)
    if config.task in _WITHOUT_TRAINING:
        _WITHOUT_TRAINING[config.task](config, workdir)
    else:
        run(TASKS[config.task], config, workdir)


def dry_run_task(config: ConfigDict, topology: str, *, output: Path | None, alternatives: bool) -> None:
    """Compiles the task that the config names for other devices; see `vicreg_jax.tasks.dry_run`.

    Raises:
        InputError: an unknown task, one without a train step, or other bad input.
    """
    _check_name(config.task)
    if config.task not in TASKS:
        raise InputError(f"config.task must be one of {', '.join(TASKS)} for --dry_run; got {config.task!r}")
    dry_run(TASKS[config.task], config, topology, output=output, alternatives=alternatives)


def _check_name(name: str) -> None:
    if name not in _NAMES:
        raise InputError(f"config.task must be one of {', '.join(_NAMES)}; got {name!r}{did_you_mean(name, _NAMES)}")


def table_of(config: Mapping[str, Any] | ConfigDict) -> Table:
    """Every field of a config of any task; the config may be plain JSON.

    Raises:
        InputError: an unknown method.
    """
    method = config["method"]
    task = TASKS.get(config["task"], Pretrain)
    name = method["name"]
    if task is TrainAutoencoder:
        name = method["variant"] if "variant" in method else config["optim"]["name"]
    try:
        return task.table(name)
    except ValueError as error:
        raise InputError(f"config.method.name{str(error).removeprefix('method')}") from error


def read_config(fields: Mapping[str, Any]) -> ConfigDict:
    """The config from `config.json`, of any task.

    Raises:
        InputError: it is not a config of this version of vicreg_jax.
    """
    fields = {name: value for name, value in fields.items() if name != "versions"}
    try:
        table = table_of(fields)
    except (KeyError, TypeError) as error:
        raise InputError(f"config.json must hold a config of this version of vicreg_jax; got none ({error})") from error
    return from_json(fields, table)
