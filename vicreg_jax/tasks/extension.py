"""How a run in the workdir is trained longer: `train.extend` becomes an entry of `train.extensions`."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import differences, extended, to_json, with_changes
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.processes import decide
from vicreg_jax.runtime.workdir import saved_steps, written_config


def extended_config(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config with the extensions of the run in the workdir, this one included; `train.extend` becomes None.

    So `config.json` alone tells the schedule, and a rerun of the same command resumes the extended run.

    Raises:
        InputError: `train.extend` is set, and there is nothing to extend.
    """
    if "extend" not in config.train:
        return config
    extensions = decide(lambda: _extensions(to_json(config), workdir))
    return with_changes(config, {"train.extend": None, "train.extensions": tuple(map(tuple, extensions))})


def _extensions(fields: dict[str, Any], workdir: Path) -> list[Any]:
    there = written_config(workdir)
    if not differences(fields, there):
        return extended(fields, there, max(saved_steps(workdir / "checkpoints"), default=None))
    # Nothing is saved there, or another config could not be here.
    if fields["train"]["extend"] is not None:
        raise InputError(
            f"config.train.extend must be None for a run without a checkpoint; got {fields['train']['extend']!r}"
        )
    return fields["train"]["extensions"]
