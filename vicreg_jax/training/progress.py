"""What a person sees while a run goes on: a progress bar at a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 5.0


def _summary(row: dict[str, Any]) -> str:
    names = ("loss", "invariance", "variance", "covariance", "learning_rate", "images_per_second")
    labels = {"learning_rate": "lr", "images_per_second": "images/s"}
    # Bounded by the terms that every logged row holds; a method's own terms take the place of VICReg's.
    return "  ".join(f"{labels.get(name, name)} {row[name]:.4g}" for name in names if row.get(name) is not None)


class RunProgress:
    """Shows how far a run is. Use as a context manager.

    Args:
      console: where to write.
      start_step: where this process begins.
      total_steps: where the run ends.
    """

    def __init__(self, console: Console, *, start_step: int, total_steps: int):
        self._console = console
        self._total_steps = total_steps
        self._last_line = 0.0
        self._started = time.monotonic()
        self._start_step = start_step
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[summary]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=start_step, summary="")

    def update(self, row: dict[str, Any]) -> None:
        """Shows a logged step: the bar moves, or a line is written if the last one is some seconds old."""
        step, summary = row["step"], _summary(row)
        self._bar.update(self._task, completed=step, summary=summary)
        now = time.monotonic()
        is_due = now - self._last_line >= _SECONDS_BETWEEN_LINES or step == self._total_steps
        if not self._console.is_terminal and is_due:
            self._last_line = now
            done = step - self._start_step
            left = (now - self._started) / max(done, 1) * (self._total_steps - step)
            self._console.print(f"step {step}/{self._total_steps}  {summary}  {left:.0f} s left", soft_wrap=True)

    def message(self, text: str, style: str = "") -> None:
        """Writes a line above the bar."""
        self._console.print(text, style=style, soft_wrap=True, highlight=False)

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
