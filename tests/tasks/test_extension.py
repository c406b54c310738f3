"""How `train.extend` becomes an entry of `train.extensions`, from what is in the workdir."""

import pytest

from vicreg_jax.config import base_config, to_json
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.workdir import write_config
from vicreg_jax.tasks.extension import extended_config
from vicreg_jax.tasks.smt.config import smt_config


def config_of(epochs=100, extend=None, extensions=(), **fields):
    config = base_config()
    config.train.epochs, config.train.extend, config.train.extensions = epochs, extend, extensions
    config.update(fields)
    return config


def run_in(workdir, config, *steps):
    write_config(workdir, to_json(config))
    for step in steps:
        (workdir / "checkpoints" / str(step)).mkdir(parents=True)


def test_it_begins_at_the_newest_checkpoint(tmp_path):
    run_in(tmp_path, config_of(), 30, 45)
    train = extended_config(config_of(200, "replan"), tmp_path).train
    assert (train.epochs, train.extend, train.extensions) == (200, None, ((45, 100, "replan"),))


@pytest.mark.parametrize("extend", [None, "replan"])
def test_extended_run_is_resumed(tmp_path, extend):
    run_in(tmp_path, config_of(200, None, ((45, 100, "replan"),)), 45, 60)
    train = extended_config(config_of(200, extend), tmp_path).train
    assert (train.extend, train.extensions) == (None, ((45, 100, "replan"),))


def test_run_of_the_same_length_has_no_extension(tmp_path):
    for steps in ((), (30,)):
        run_in(tmp_path, config_of(), *steps)
        assert extended_config(config_of(), tmp_path).train.extensions == ()


def test_config_of_an_extended_run_runs_in_a_new_workdir(tmp_path):
    config = config_of(200, None, ((45, 100, "replan"),))
    assert extended_config(config, tmp_path).train.extensions == ((45, 100, "replan"),)


def test_nothing_is_extended_without_a_checkpoint(tmp_path):
    for leftover in (None, config_of(), config_of(seed=5)):
        if leftover is not None:
            run_in(tmp_path, leftover)
        with pytest.raises(
            InputError, match=r"^config\.train\.extend must be None for a run without a checkpoint; got"
        ):
            extended_config(config_of(200, "replan"), tmp_path)


def test_other_tasks_have_no_extension(tmp_path):
    config = smt_config()
    assert extended_config(config, tmp_path) is config
