"""The loggers that the section `logging` names."""

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import to_json
from vicreg_jax.runtime.errors import InputError, TrainingError, first_line
from vicreg_jax.runtime.processes import is_first
from vicreg_jax.training.loggers import Logger, OpenLogger, TensorBoard, WeightsAndBiases

_BUILT_IN: Mapping[str, tuple[OpenLogger, str]] = {
    "tensorboard": (TensorBoard, "tensorboardX"),
    "wandb": (WeightsAndBiases, "wandb"),
}


def named_loggers(config: ConfigDict) -> dict[str, OpenLogger]:
    """What opens each logger that the config names, by field.

    Raises:
        InputError: a package is not installed, or there is no such class.
    """
    found: dict[str, OpenLogger] = {}
    for name, (open_logger, package) in _BUILT_IN.items():
        if not config.logging[name]:
            continue
        if importlib.util.find_spec(package) is None:
            raise InputError(f"config.logging.{name} requires the package {package} (pip install {package}); got True")
        found[name] = open_logger
    if (place := config.logging.logger) is not None:
        module, _, name = place.partition(":")
        try:
            found["logger"] = getattr(importlib.import_module(module), name)
        except Exception as error:  # whatever the module does
            raise InputError(
                f"config.logging.logger must be MODULE:NAME of a logger; got {place!r} ({first_line(error)})"
            ) from error
    return found


def open_loggers(named: Mapping[str, OpenLogger], config: ConfigDict, workdir: Path, start_step: int) -> list[Logger]:
    """Opens them, in the first process only.

    Raises:
        TrainingError: one cannot be opened.
    """
    opened: list[Logger] = []
    fields: dict[str, Any] = to_json(config)
    for name, open_logger in named.items() if is_first() else ():
        try:
            opened.append(open_logger(workdir, start_step, fields))
        except Exception as error:  # clients raise errors of all kinds
            for logger in opened:
                logger.close()
            raise TrainingError(f"config.logging.{name} cannot be opened: {first_line(error)}; stopped") from error
    return opened
