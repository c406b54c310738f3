"""A run starts from given weights, and keeps their digest."""

import hashlib
import json
from functools import partial

import jax
import numpy as np
import pytest

from tests.interop.variables import random_variables
from tests.runs import SHORT, launch
from tests.small_encoder import save_photos, small_config
from vicreg_jax.config import differences, run_identity, to_json
from vicreg_jax.interop import to_torch, write_torch
from vicreg_jax.models import Head, create_backbone
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.workdir import write_config
from vicreg_jax.tasks.pretrain.task import Pretrain
from vicreg_jax.tasks.task import Site
from vicreg_jax.tasks.weights import take_recorded_digests
from vicreg_jax.training.mesh import state_shardings
from vicreg_jax.training.state import run_key

BACKBONE = create_backbone("resnet_tiny", width=0.25, stem="small")
HEAD = Head((8,))
PARTS = {
    "backbone": (random_variables(BACKBONE, 3), BACKBONE),
    "head": (random_variables(HEAD, BACKBONE.feature_dim), HEAD),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photos, and the weights of a backbone and a head in one file."""
    place = tmp_path_factory.mktemp("weights")
    save_photos(place / "photos")
    style = partial(to_torch, style="vicreg_fullckpt")
    write_torch(place / "full.pth", style(*PARTS["backbone"]) | style(*PARTS["head"]))
    write_torch(place / "other.pth", to_torch(random_variables(Head((8,)), 4), Head((8,))))
    return place


def config_of(place, **model):
    config = small_config()
    config.data.manual_dir = str(place / "photos")
    config.train.update({"batch_size": 4, "epochs": 1})
    config.optim.warmup_epochs = 0.0
    config.mesh.update({"data": 1, "fsdp": 2})
    config.model.update(model)
    return config


def task_of(config):
    return Pretrain.from_config(config, Site(jax.devices()[:2]))


def given(place):
    return {"init_from": str(place / "full.pth"), "init_head_from": str(place / "full.pth")}


def started(task):
    """The initial state, and the state that training starts from."""
    shapes = jax.eval_shape(task.init, run_key(0))
    shardings = state_shardings(task.experiment.mesh, shapes)
    init = jax.jit(lambda: task.init(run_key(0)), out_shardings=shardings)
    return init(), task.start(init(), shardings)


def assert_equal(tree, expected):
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def test_both_branches_start_from_the_file(place):
    task = task_of(config_of(place, shared=(), **given(place)))
    digest = hashlib.sha256((place / "full.pth").read_bytes()).hexdigest()
    assert {weights.digest for weights in task.weights().values()} == {digest}
    assert (task.experiment.config.model.init_digest, task.experiment.config.model.init_head_digest) == (digest, digest)
    initial, state = started(task)
    for part, (variables, _) in PARTS.items():
        for name in (part, f"second_{part}"):
            assert_equal(state.params[name], variables["params"])
            assert_equal(state.batch_stats[name], variables.get("batch_stats", {}))
    assert_equal(state.opt_state, initial.opt_state)
    assert_equal(state.key, initial.key)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == jax.tree.map(lambda leaf: leaf.sharding, initial)


def test_second_branch_of_another_kind_stays_random(place):
    model = {"shared": ("head",), "second_name": "resnet_tiny", **given(place)}
    task = task_of(config_of(place, **model))
    assert task.weights().keys() == {"backbone", "head", "second_backbone"}
    object.__setattr__(task.experiment.method, "second_backbone", create_backbone("resnet18"))
    again = Pretrain(task.experiment)
    assert again.weights().keys() == {"backbone", "head"}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("init_from", "{}/nothing.pth", "must be a run, an export or a file of weights; got .* which does not exist"),
        ("init_from", "{}/photos", "must be a run, an export or a file of weights; got .* without a config.json"),
        ("init_from", "{}/other.pth", "must have the keys of a ResNet"),
        ("init_head_from", "{}/other.pth", "must hold weights of this architecture, with params/dense_0/kernel"),
        ("init_head_from", "{}/photos", "must hold a complete, intact checkpoint; got none"),
    ],
)
def test_bad_input_is_one_line(place, field, value, says):
    task = task_of(config_of(place, **{field: value.format(place)}))
    with pytest.raises(InputError, match=rf"^config\.model\.{field} {says}") as error:
        task.weights()
    assert "\n" not in str(error.value)


def test_weights_with_another_digest_are_refused(place):
    task = task_of(config_of(place, init_digest="0" * 64, **given(place)))
    with pytest.raises(InputError, match=r"^config\.model\.init_from must hold the weights of the SHA-256 0000"):
        task.weights()


def test_resumed_run_takes_the_digest(place, tmp_path):
    config = config_of(place, **given(place))
    task_of(config).weights()
    write_config(tmp_path, to_json(config))
    rerun = config_of(place, **given(place))
    assert not differences(to_json(rerun), to_json(config))
    take_recorded_digests(rerun, tmp_path)
    assert run_identity(to_json(rerun), 1) == run_identity(to_json(config), 1)
    other = config_of(place, **(given(place) | {"init_head_from": None}))
    assert differences(to_json(other), to_json(config))
    take_recorded_digests(other, tmp_path)
    assert other.model.init_digest is None


@pytest.mark.slow
def test_run_goes_on_without_the_file(environment, finished, tmp_path):
    """The first start records the digest and shows the accuracies of the weights; later ones do not need the file."""
    encoder = tmp_path / "encoder"
    from vicreg_jax import load_encoder

    load_encoder(finished[0]).export(encoder)
    arguments = (*SHORT, f"--config.model.init_from={encoder}")
    result = launch(environment, tmp_path / "run", *arguments)
    assert result.returncode == 0, result.stderr
    assert "weights of the backbone: SHA-256 " in result.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    expected = json.loads((finished[0] / "summary.json").read_text())
    assert summary["baselines"]["given_weights"]["linear_accuracy"] == expected["linear_accuracy"]
    assert summary["baselines"]["random_init"] == expected["baselines"]["random_init"]
    config = (tmp_path / "run" / "config.json").read_text()
    (tmp_path / "run" / "summary.json").unlink()
    encoder.rename(tmp_path / "elsewhere")
    result = launch(environment, tmp_path / "run", *arguments)
    assert result.returncode == 0, result.stderr
    assert "resuming from step" in result.stdout
    again = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert again["linear_accuracy"] == summary["linear_accuracy"]
    assert "given_weights" not in again["baselines"]
    assert (tmp_path / "run" / "config.json").read_text() == config
