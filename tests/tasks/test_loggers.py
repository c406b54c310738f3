"""Loggers beside `metrics.jsonl`: the built-in ones, and any class with `log` and `close`."""

import importlib.util
import json
import re
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

from tests.runs import SHORT, launch
from vicreg_jax.config import base_config
from vicreg_jax.runtime.errors import InputError, TrainingError
from vicreg_jax.tasks import loggers
from vicreg_jax.tasks.loggers import named_loggers, open_loggers
from vicreg_jax.training.metrics import MetricsWriter, read_metrics


class Fake:
    """Keeps what it is given."""

    opened: ClassVar[list] = []

    def __init__(self, workdir, start_step, config):
        self.start_step, self.config, self.rows, self.is_closed = start_step, config, [], False
        Fake.opened.append(self)

    def log(self, step, row):
        self.rows.append((step, row))

    def close(self):
        self.is_closed = True


class Failing(Fake):
    """Fails at its second row."""

    def log(self, step, row):
        super().log(step, row)
        if len(self.rows) == 2:
            raise ConnectionError("no network")


def unable(workdir, start_step, config):
    raise PermissionError("no API key")


@pytest.fixture
def config():
    Fake.opened.clear()
    return base_config()


def opened(config, workdir, start_step=0):
    return open_loggers(named_loggers(config), config, workdir, start_step)


def test_none_by_default(config, tmp_path):
    assert opened(config, tmp_path) == []


def test_any_class_is_a_logger(config, tmp_path):
    config.logging.logger = f"{__name__}:Fake"
    found = opened(config, tmp_path, start_step=7)
    with MetricsWriter(tmp_path, start_step=7, loggers=found) as writer:
        writer.write({"step": 10, "loss": 2.0, "variance": float("nan")})
        writer.write({"step": 20, "loss": 1.0, "knn_accuracy": 0.5})
        assert not found[0].is_closed
    assert found == Fake.opened
    assert (found[0].start_step, found[0].config["optim"]["base_lr"]) == (7, config.optim.base_lr)
    assert found[0].rows == [(10, {"loss": 2.0}), (20, {"loss": 1.0, "knn_accuracy": 0.5})]
    assert found[0].is_closed


def test_logger_that_fails_is_left_out(config, tmp_path, caplog):
    failing, other = Failing(tmp_path, 0, {}), Fake(tmp_path, 0, {})
    with MetricsWriter(tmp_path, start_step=0, loggers=[failing, other]) as writer:
        for step in (1, 2, 3):
            writer.write({"step": step, "loss": 0.5})
    assert [step for step, _ in failing.rows] == [1, 2]
    assert [step for step, _ in other.rows] == [1, 2, 3]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "Failing failed and gets no more metrics: ConnectionError: no network; metrics.jsonl has them all"
    ]


def test_logger_is_closed_when_the_run_fails(tmp_path):
    logger = Fake(tmp_path, 0, {})
    with pytest.raises(KeyError), MetricsWriter(tmp_path, start_step=0, loggers=[logger]):
        raise KeyError
    assert logger.is_closed


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("nowhere:Logger", "ModuleNotFoundError"),
        ("json:Logger", "AttributeError"),
        ("json", "AttributeError"),
        ("", "ValueError"),
    ],
)
def test_logger_that_is_not_there(config, place, reason):
    config.logging.logger = place
    says = f"config.logging.logger must be MODULE:NAME of a logger; got {place!r} ({reason}"
    with pytest.raises(InputError, match=f"^{re.escape(says)}"):
        named_loggers(config)


def test_package_that_is_not_installed(config, monkeypatch):
    config.logging.wandb = True
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    says = "config.logging.wandb requires the package wandb (pip install wandb); got True"
    with pytest.raises(InputError, match=f"^{re.escape(says)}$"):
        named_loggers(config)


def test_logger_that_cannot_be_opened(config, tmp_path):
    named = {"logger": Fake, "wandb": unable}
    with pytest.raises(TrainingError, match=r"^config\.logging\.wandb cannot be opened: PermissionError: no API key"):
        open_loggers(named, config, tmp_path, 0)
    assert Fake.opened[0].is_closed


def test_only_the_first_process_logs(config, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "is_first", lambda: False)
    assert open_loggers({"logger": Fake}, config, tmp_path, 0) == []


def test_weights_and_biases_is_told(config, tmp_path, monkeypatch):
    """What reaches the client, without the client; offline with it below."""
    calls = []
    run = SimpleNamespace(log=lambda row, step: calls.append((step, row)), finish=lambda: calls.append("finish"))
    client = SimpleNamespace(init=lambda **named: calls.append(named) or run, Settings=lambda **named: named)
    monkeypatch.setitem(sys.modules, "wandb", client)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("WANDB_PROJECT", "photos")
    config.logging.wandb = True
    for start_step in (0, 10):  # a run and its resumption are one run
        with MetricsWriter(tmp_path, start_step=start_step, loggers=opened(config, tmp_path, start_step)) as writer:
            writer.write({"step": start_step + 10, "loss": 1.0})
    first, second = calls[0], calls[3]
    assert first == second
    assert len(first["id"]) == 32
    assert (first["project"], first["name"], first["dir"]) == ("photos", tmp_path.name, str(tmp_path))
    assert first["config"]["method"]["name"] == "vicreg"
    assert calls[1:3] == [(10, {"loss": 1.0}), "finish"]
    assert calls[4:] == [(20, {"loss": 1.0}), "finish"]


@pytest.mark.slow
def test_weights_and_biases_offline(environment, tmp_path):
    pytest.importorskip("wandb")
    environment = environment | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    result = launch(environment, tmp_path / "run", *SHORT, "--config.logging.wandb=True")
    assert result.returncode == 0, result.stderr
    [file] = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    identity = (tmp_path / "run" / "wandb_id.txt").read_text()
    assert file.name == f"run-{identity}.wandb"
    content = file.read_bytes()
    for row in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        assert json.dumps(row["loss"]).encode() in content
