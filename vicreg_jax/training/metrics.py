"""`metrics.jsonl`: one JSON object per logged step, the same lines however often the run was interrupted."""

import errno
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import jax

from vicreg_jax.runtime.errors import TrainingError, first_line
from vicreg_jax.runtime.storage import is_on_bucket
from vicreg_jax.training.loggers import Logger, Loggers


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The objects of a `metrics.jsonl`, in order, without a last line that a kill cut off."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the bucket's client raises errors of all kinds
        raise TrainingError(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or first_line(error)}; stopped. "
            "The last checkpoint is kept; rerun the same command to resume from it"
        ) from error


class MetricsWriter:
    """Appends to `metrics.jsonl`, and hands each row to the loggers. Use as a context manager.

    Of several processes only process 0 writes. A bucket cannot append: there the whole file is written at every `sync`
    and at the end.

    Args:
        workdir: where `metrics.jsonl` is.
        start_step: the step that the run resumes from; lines of later steps, from before an interruption, are dropped.
        loggers: take each row too, without null values; closed at the end.

    Raises:
        TrainingError: from every method, when the file can no longer be written.
    """

    def __init__(self, workdir: Path, *, start_step: int, loggers: Sequence[Logger] = ()):
        self._file: TextIO | None = None
        self._loggers = Loggers(loggers)
        if jax.process_index() > 0:
            return
        self._path = workdir / "metrics.jsonl"
        kept = [row for row in read_metrics(self._path) if row["step"] <= start_step]
        partial = self._path.with_suffix(".jsonl.partial")
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        with _explained(self._path):
            partial.write_text(lines)
            partial.replace(self._path)
            if is_on_bucket(workdir):
                self._file = io.StringIO()
                self._file.write(lines)
            else:
                self._file = self._path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        """Writes the numbers of one step, `step` among them. NaN, which JSON lacks, becomes null."""
        row = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        if self._file is None:
            return
        line = json.dumps(row) + "\n"
        with _explained(self._path):
            # A removed file can still be written to, and nobody would ever see the lines.
            if not is_on_bucket(self._path) and self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:
                raise FileNotFoundError(errno.ENOENT, "it was removed or replaced during the run")
            self._file.write(line)
            self._file.flush()
        self._loggers.log(row["step"], {n: value for n, value in row.items() if n != "step" and value is not None})

    def sync(self) -> None:
        """Waits until all lines are on the disk or in the bucket, so that no checkpoint gets ahead of them."""
        if self._file is not None:
            with _explained(self._path):
                if isinstance(self._file, io.StringIO):
                    self._path.write_text(self._file.getvalue())
                else:
                    os.fsync(self._file.fileno())

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            # The error that ended the run says more than a failure to write its last line.
            with suppress(OSError, TrainingError) if error else nullcontext(), self._file:
                self.sync()
        self._loggers.close()
