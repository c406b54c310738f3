"""What a run that waits for its images is told to change."""

from types import SimpleNamespace

import pytest

from vicreg_jax.tasks import task
from vicreg_jax.tasks.task import Task

STORE = "prepare a store (docs/guides/data.md)"


@pytest.mark.parametrize(
    ("cores", "workers", "remedy"),
    [
        (2, 0, STORE),
        (16, 0, STORE),
        (17, 0, f"raise config.data.workers, now 0, or {STORE}"),
        (64, 2, f"raise config.data.workers, now 2, or {STORE}"),
        (64, 4, STORE),
    ],
)
@pytest.mark.parametrize("is_resident", [False, True])
def test_remedy(cores, workers, remedy, is_resident, monkeypatch):
    monkeypatch.setattr(task, "usable_cores", lambda: cores)
    experiment = SimpleNamespace(
        train_data=None,
        is_resident=lambda data: is_resident,
        config=SimpleNamespace(data=SimpleNamespace(workers=workers)),
    )
    assert Task.input_remedy.fget(SimpleNamespace(experiment=experiment)) == ("" if is_resident else remedy)
