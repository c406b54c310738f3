import json

import pytest

from vicreg_jax.training.loggers import TensorBoard
from vicreg_jax.training.metrics import MetricsWriter, read_metrics


def _write(workdir, start_step, rows, loggers=()):
    with MetricsWriter(workdir, start_step=start_step, loggers=loggers) as writer:
        for row in rows:
            writer.write(row)


def test_resumed_run_has_each_line_once(tmp_path):
    _write(tmp_path, 0, [{"step": step, "loss": float(step)} for step in (10, 20, 30)])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 40, "lo')  # what a kill leaves
    _write(tmp_path, 20, [{"step": step, "loss": -1.0} for step in (30, 40)])
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [
        (10, 10.0),
        (20, 20.0),
        (30, -1.0),
        (40, -1.0),
    ]


def test_lines_are_json_without_nan(tmp_path):
    _write(tmp_path, 0, [{"step": 1, "loss": float("nan"), "variance": float("inf"), "covariance": 2.0}])
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "step": 1,
        "loss": None,
        "variance": None,
        "covariance": 2.0,
    }


def test_tensorboard_events(tmp_path):
    _write(tmp_path, 0, [{"step": 1, "loss": 3.5}], [TensorBoard(tmp_path, 0, {})])
    events = list((tmp_path / "tensorboard").glob("events*"))
    assert len(events) == 1
    assert b"loss" in events[0].read_bytes()
