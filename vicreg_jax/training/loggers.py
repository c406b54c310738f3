"""Where metrics go beside `metrics.jsonl`: TensorBoard, Weights & Biases, or any class with the same two methods."""

import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vicreg_jax.runtime.errors import first_line
from vicreg_jax.runtime.storage import is_on_bucket

_logger = logging.getLogger(__name__)


class Logger(Protocol):
    """Takes the metrics of a run. Only the first of several processes has one."""

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Takes the finite metrics of a logged step. A resumed run logs the steps after its checkpoint again."""

    def close(self) -> None:
        """The last metrics have been logged."""


OpenLogger = Callable[[Path, int, Mapping[str, Any]], Logger]
"""`(workdir, start_step, config) -> logger`; the config as JSON holds it, `start_step` above 0 in a resumed run."""


class TensorBoard:
    """Events in `tensorboard/` of the workdir; see `OpenLogger`."""

    def __init__(self, workdir: Path, start_step: int, config: Mapping[str, Any]):
        from tensorboardX import SummaryWriter

        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in row.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Logger`."""
        self._events.close()


class WeightsAndBiases:
    """One run of Weights & Biases per workdir, also where it is resumed; see `OpenLogger`.

    wandb's own variables apply: `WANDB_MODE=offline` writes to `wandb/` of the workdir alone, and `WANDB_PROJECT` names
    the project, by default `vicreg_jax`.
    """

    def __init__(self, workdir: Path, start_step: int, config: Mapping[str, Any]):
        import wandb

        identity = workdir / "wandb_id.txt"
        if not identity.exists():
            identity.write_text(uuid.uuid4().hex)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "vicreg_jax"),
            name=workdir.name,
            id=identity.read_text(),
            resume="allow",
            config=dict(config),
            dir=None if is_on_bucket(workdir) else str(workdir),
            settings=wandb.Settings(console="off"),  # the progress bar is not for a log
        )

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log(dict(row), step=step)

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


class Loggers:
    """Several loggers as one. One that fails is left out from then on, with a warning: `metrics.jsonl` has it all."""

    def __init__(self, loggers: Sequence[Logger]):
        self._loggers = list(loggers)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._each(lambda logger: logger.log(step, row))

    def close(self) -> None:
        """See `Logger`."""
        self._each(lambda logger: logger.close())

    def _each(self, call: Callable[[Logger], None]) -> None:
        for logger in tuple(self._loggers):
            try:
                call(logger)
            except Exception as error:  # clients raise errors of all kinds
                self._loggers.remove(logger)
                _logger.warning(
                    "%s failed and gets no more metrics: %s; metrics.jsonl has them all",
                    type(logger).__name__,
                    first_line(error),
                )
