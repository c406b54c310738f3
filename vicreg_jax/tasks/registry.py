"""The tasks that `launch.py` can run, by the name in `config.task`."""

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from vicreg_jax.encoder import load_encoder
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.workdir import check_workdir
from vicreg_jax.tasks.locoprop.task import locoprop_task
from vicreg_jax.tasks.pretrain.task import pretrain
from vicreg_jax.tasks.smt.task import smt


def export(config: ConfigDict, workdir: Path) -> None:
    """Writes the encoder of the run in `workdir`, alone, to `workdir/export`."""
    check_workdir(workdir, config)
    path = load_encoder(workdir).export(workdir / "export")
    print(f"the encoder is in {path}; vicreg_jax.load_encoder({str(path)!r}) loads it")


TASKS: dict[str, Callable[[ConfigDict, Path], None]] = {
    "pretrain": pretrain,
    "export": export,
    "smt": smt,
    "locoprop": locoprop_task,
}


def run_task(config: ConfigDict, workdir: Path) -> None:
    """Runs the task that the config names, in that directory.

    Raises:
      InputError: an unknown task, or whatever the task finds that it cannot use.
    """
    if config.task not in TASKS:
        raise InputError(f"config.task: got {config.task!r}, takes one of {', '.join(TASKS)}")
    TASKS[config.task](config, workdir)
