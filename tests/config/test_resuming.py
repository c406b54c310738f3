"""Which configs are of one run, and how a run is extended."""

import json

import pytest

from vicreg_jax.config import base_config, differences, extended, from_json, pretrain_table, run_identity, to_json
from vicreg_jax.config.rules import EXTENSIONS
from vicreg_jax.runtime.errors import InputError


def fields_of(**changes):
    config = base_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return to_json(config)


RUN = fields_of()  # of 100 epochs
EXTENDED = fields_of(train__epochs=200, train__extensions=((70, 100, "replan"),))


def longer(epochs=200, how="replan", **changes):
    return fields_of(train__epochs=epochs, train__extend=how, **changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data__workers", 8),
        ("data__placement", "host"),
        ("data__max_unreadable", 0.5),
        ("data__data_dir", "/elsewhere"),
        ("data__manual_dir", "PHOTOS/"),
        ("train__on_nonfinite", "skip"),
    ],
)
def test_what_says_how_or_where_does_not_forbid_resuming(name, value):
    other = fields_of(**{name: value})
    assert differences(other, RUN) == []
    assert run_identity(other, 10) == run_identity(RUN, 10)


def test_more_epochs_are_refused_with_a_word_on_how_to_extend():
    assert differences(fields_of(train__epochs=200), RUN) == [
        "train.epochs was 100 and is 200 (to train longer, set train.extend=replan or train.extend=cosine_from_here)"
    ]
    assert differences(fields_of(train__epochs=50), RUN) == ["train.epochs was 100 and is 50"]
    assert differences(RUN, EXTENDED) == ["train.epochs was 200 and is 100"]


def test_a_run_is_extended_only_in_its_length():
    assert differences(longer(), RUN) == []
    assert differences(longer(seed=5), RUN) == ["seed was 0 and is 5"]
    assert extended(longer(), RUN, 70) == [(70, 100, "replan")]
    assert extended(longer(how="cosine_from_here"), RUN, 70) == [(70, 100, "cosine_from_here")]


@pytest.mark.parametrize("ours", [longer(), fields_of(train__epochs=200), EXTENDED])
def test_an_extended_run_is_resumed_as_it_is(ours):
    """By the same command, without `train.extend`, and by its own config.json."""
    assert differences(ours, EXTENDED) == []
    assert extended(ours, EXTENDED, 80) == [(70, 100, "replan")]


def test_it_is_extended_again():
    ours = longer(300, "cosine_from_here")
    assert extended(ours, EXTENDED, 90) == [(70, 100, "replan"), (90, 200, "cosine_from_here")]
    # No step was taken after the first extension, or its checkpoints are lost: it changed nothing.
    for step in (70, 60):
        assert extended(ours, EXTENDED, step) == [(step, 100, "cosine_from_here")]


@pytest.mark.parametrize(
    ("ours", "theirs", "step", "says"),
    [
        (longer(100), RUN, 70, "train.epochs must be above 100, .* with train.extend='replan'; got 100"),
        (longer(50), RUN, 70, "train.epochs must be above 100, .*; got 50"),
        (longer(200, "cosine_from_here"), EXTENDED, 80, "train.epochs must be above 200, .*; got 200"),
        (longer(), RUN, None, "train.extend must be None for a run without a checkpoint; got 'replan'"),
    ],
)
def test_nothing_to_extend(ours, theirs, step, says):
    with pytest.raises(InputError, match=rf"^config\.{says}$"):
        extended(ours, theirs, step)


def test_identity_is_that_of_the_run_at_that_step():
    for step in (1, 70):
        assert run_identity(EXTENDED, step) == run_identity(RUN, step)
    assert run_identity(EXTENDED, 71) != run_identity(RUN, 71)
    again = fields_of(train__epochs=300, train__extensions=((70, 100, "replan"), (90, 200, "replan")))
    assert run_identity(again, 90) == run_identity(EXTENDED, 90)
    assert run_identity(again, 91) != run_identity(EXTENDED, 91)


def test_identity_names_the_seed_apart():
    other = run_identity(fields_of(seed=5), 10)
    assert other["seed"] == 5
    assert (
        other["config"] == run_identity(RUN, 10)["config"] != run_identity(fields_of(optim__base_lr=0.3), 10)["config"]
    )


def test_extensions_go_through_json():
    config = from_json(json.loads(json.dumps(EXTENDED)), pretrain_table())
    assert config.train.extensions == ((70, 100, "replan"),)
    assert to_json(config) == EXTENDED


@pytest.mark.parametrize(
    "value",
    [
        ((70, 100),),
        ((0, 100, "replan"),),
        ((70, 100, "cosine"),),
        (70, 100, "replan"),
        ((70, 100, "replan"), (70, 200, "replan")),
        ((70, 100, "replan"), (80, 100, "replan")),
    ],
)
def test_extensions_that_cannot_be(value):
    assert not EXTENSIONS.takes(value)
    assert EXTENSIONS.takes(((70, 100, "replan"), (80, 200, "cosine_from_here")))


def test_a_workdir_belongs_to_one_task():
    """But for the tasks that take the run in the workdir."""
    assert differences({**RUN, "task": "evaluate"}, RUN) == ["task was 'pretrain' and is 'evaluate'"]
    assert differences(RUN, {**RUN, "task": "evaluate"}) == ["task was 'evaluate' and is 'pretrain'"]
    for task in ("embed", "export"):
        assert differences({**RUN, "task": task}, RUN) == []
