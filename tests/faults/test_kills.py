"""However often a run is killed, it ends as if nothing had happened: in the same state, bit for bit."""

import pytest

from tests.faults.kills import run_through_kills
from tests.runs import assert_same_end, final_state
from vicreg_jax.losses import CorInfoMaxState
from vicreg_jax.methods import METHODS

# An epoch has 11 steps: checkpoints fall in mid-epoch.
SMALL = (
    "--config.checkpoint.every_steps=7",
    "--config.logging.every_steps=1",
    "--config.evaluation.every_epochs=2",
    "--config.evaluation.labels_per_class=(1,)",
    "--config.evaluation.draws=1",
)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method(environment, undisturbed, tmp_path, method):
    """Every part of the state: target networks and MoCo's queue too."""
    arguments, options = (*SMALL, "--config.train.epochs=3"), {"config": f"configs/digits.py:{method}"}
    expected, _ = undisturbed(*arguments, **options)
    phases = run_through_kills(environment, tmp_path / "run", *arguments, kills=3, total_steps=33, seed=8, **options)
    print(method, dict(phases))
    assert_same_end(tmp_path / "run", expected)
    extra_state = {name.split("'")[3] for name in final_state(expected) if name.startswith("['extra_state']")}
    target = {"target_params", "target_batch_stats"}
    carried = {"moco": target | {"queue", "queue_position"}, "byol": target, "corinfomax": set(CorInfoMaxState._fields)}
    assert extra_state == carried.get(method, set())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vicreg", "moco", "byol"])
def test_many_kills(environment, undisturbed, tmp_path, method):
    arguments = (*SMALL, "--config.train.epochs=8", "--config.checkpoint.every_steps=2")
    options = {"config": f"configs/digits.py:{method}"}
    expected, _ = undisturbed(*arguments, **options)
    phases = run_through_kills(environment, tmp_path / "run", *arguments, kills=18, total_steps=88, seed=1, **options)
    print(method, dict(phases))
    assert phases.total() == 18
    # With a save every two steps, few kills come outside of one.
    assert {"start", "save", "evaluation"} <= set(phases)
    assert_same_end(tmp_path / "run", expected)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "group"), [(0, False), (1, True), (1, False)])
def test_kills_of_a_run_with_streamed_images(environment, undisturbed, tmp_path, workers, group):
    """Of worker processes too, or of their parent alone: they do not keep a new run out."""
    arguments = (*SMALL, "--config.train.epochs=3")
    streamed = ("--config.data.placement=host", f"--config.data.workers={workers}")
    phases = run_through_kills(
        environment, tmp_path / "run", *arguments, *streamed, kills=5, total_steps=33, seed=workers, group=group
    )
    print(workers, group, dict(phases))
    assert_same_end(tmp_path / "run", undisturbed(*arguments)[0])
