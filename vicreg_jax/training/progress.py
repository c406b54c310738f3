"""Progress on the console, of a run and of what precedes it: a bar at a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BEFORE_PROGRESS = 2.0  # of what is usually short

_LABELS = {"learning_rate": "lr", "images_per_second": "images/s"}


def open_console(**options: Any) -> Console:
    """A console that prints text as it is: names and paths may look like rich's markup.

    Args:
        **options: see `rich.console.Console`.
    """
    return Console(highlight=False, markup=False, emoji=False, **options)


class RunProgress:
    """Shows the progress of a run. Use as a context manager.

    Args:
        console: where to write.
        start_step: the step that this process starts from.
        total_steps: steps of the whole run.
        shown: names of the metrics to show.
    """

    def __init__(self, console: Console, *, start_step: int, total_steps: int, shown: tuple[str, ...]):
        self._shown = shown
        self._console = console
        self._total_steps = total_steps
        self._next_line, self._last_line, self._last_step = 0.0, time.monotonic(), start_step
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
        """Shows the metrics of a logged step: at the bar, or in a line at most every few seconds."""
        step = row["step"]
        shown = [name for name in self._shown if name in row]
        summary = "  ".join(f"{_LABELS.get(name, name)} {row[name]:.4g}" for name in shown)
        self._bar.update(self._task, summary=summary)
        now = time.monotonic()
        if not self._console.is_terminal and (now >= self._next_line or step == self._total_steps):
            # By the speed since the last line: a run may have passes of very different speeds.
            left = (now - self._last_line) / max(step - self._last_step, 1) * (self._total_steps - step)
            self._next_line, self._last_line, self._last_step = now + _SECONDS_BETWEEN_LINES, now, step
            self._console.print(f"step {step}/{self._total_steps}  {summary}  {left:.0f} s left", soft_wrap=True)

    def advance(self, step: int) -> None:
        """Moves the bar to a step."""
        self._bar.update(self._task, completed=step)

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


class OpeningProgress:
    """Shows how many images of a folder have been checked, if it takes long. Use as a context manager.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console):
        self._console = console
        self._next = time.monotonic() + _SECONDS_BEFORE_PROGRESS
        self._bar = Progress(
            TextColumn("checking images"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("")

    def update(self, done: int, total: int) -> None:
        """Shows how many are done: at the bar, or in a line every few seconds."""
        self._bar.update(self._task, completed=done, total=total)
        now = time.monotonic()
        if now < self._next:
            return
        if self._console.is_terminal:
            self._bar.start()
        else:
            self._console.print(f"checking images {done}/{total}")
            self._next = now + _SECONDS_BETWEEN_LINES

    def __enter__(self) -> "OpeningProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar.live.is_started:
            self._bar.stop()
