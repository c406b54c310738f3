import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

import vicreg_jax
from vicreg_jax.training import progress
from vicreg_jax.training.progress import OpeningProgress, RunProgress, open_console


def test_lines_say_how_long_it_takes_at_the_present_speed(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    output = io.StringIO()
    shown = RunProgress(Console(file=output, width=200), start_step=10, total_steps=100, shown=("loss",))
    for seconds, step in ((10, 20), (1, 21), (4, 22), (1, 24), (48, 48), (1, 100)):
        clock[0] += seconds
        shown.update({"step": step, "loss": 0.5})
    assert output.getvalue().splitlines() == [
        "step 20/100  loss 0.5  80 s left",  # a second a step
        "step 22/100  loss 0.5  195 s left",  # 2.5 seconds; no line came within 5 seconds
        "step 48/100  loss 0.5  98 s left",
        "step 100/100  loss 0.5  0 s left",
    ]


def test_text_that_looks_like_markup_is_printed_as_it_is():
    output = io.StringIO()
    console = open_console(file=output, width=200)
    table = Table("[/column]", title="[/title]")
    table.add_row("[/x] [bold]cell[/bold] :smile:")
    console.print("data    [/x]: [red]name :smile:", soft_wrap=True)
    console.print(table)
    for text in ("data    [/x]: [red]name :smile:\n", "[/title]", "[/column]", "[/x] [bold]cell[/bold] :smile:"):
        assert text in output.getvalue()


def test_every_console_is_such_a_one():
    package = Path(vicreg_jax.__file__).parent
    assert [path.name for path in package.rglob("*.py") if "Console(" in path.read_text()] == ["progress.py"]


@pytest.fixture
def opening(monkeypatch):
    """`opening(terminal, seconds)`: what is printed while an image is checked every so many seconds."""

    def show(terminal, seconds):
        clock, output = [100.0], io.StringIO()
        monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
        with OpeningProgress(open_console(file=output, width=80, force_terminal=terminal)) as shown:
            for done in range(1, 11):
                clock[0] += seconds
                shown.update(done, 10)
        return output.getvalue()

    return show


@pytest.mark.parametrize("terminal", [True, False])
def test_a_folder_that_opens_quickly_shows_nothing(opening, terminal):
    assert opening(terminal, 0.1) == ""


def test_a_folder_that_opens_slowly_shows_a_line_every_five_seconds(opening):
    assert opening(False, 1.5).splitlines() == [f"checking images {done}/10" for done in (2, 6, 10)]


def test_a_folder_that_opens_slowly_shows_a_bar_at_a_terminal(opening):
    shown = opening(True, 1.5)
    assert "checking images" in shown
    assert "10/10" in shown
