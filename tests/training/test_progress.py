import io

from rich.console import Console

from vicreg_jax.training import progress
from vicreg_jax.training.progress import RunProgress


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
