"""`metrics.jsonl`: one JSON object a logged step, the same lines however often the run was interrupted."""

import json
import math
import os
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The objects of a `metrics.jsonl`, in order; a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class MetricsWriter:
    """Appends to `metrics.jsonl`, and to TensorBoard events where asked.

    Args:
      workdir: where `metrics.jsonl` is.
      start_step: the step the run goes on from; lines of later steps, written before an interruption, are dropped.
      tensorboard: whether to write TensorBoard events to `workdir/tensorboard`.
    """

    def __init__(self, workdir: Path, *, start_step: int, tensorboard: bool):
        path = workdir / "metrics.jsonl"
        kept = [row for row in read_metrics(path) if row["step"] <= start_step]
        partial = path.with_suffix(".jsonl.partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(partial, path)
        self._file = path.open("a")
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def write(self, row: dict[str, Any]) -> None:
        """Writes one step's numbers; `step` must be among them. NaN, which JSON has not, is written as null."""
        row = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._events.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()
