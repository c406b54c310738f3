"""The task `evaluate`: what the frozen features of an encoder are worth on the config's dataset and on others."""

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vicreg_jax.config import check_config, differences, from_section, pretrain_table, to_json, with_changes
from vicreg_jax.data import identify
from vicreg_jax.encoder import Encoder, load_encoder
from vicreg_jax.evaluation import LabeledFeatures
from vicreg_jax.runtime.agreement import build_everywhere
from vicreg_jax.runtime.errors import InputError, named
from vicreg_jax.runtime.processes import are_several, decide, is_first
from vicreg_jax.runtime.workdir import held_workdir, read_json, write_config, write_json
from vicreg_jax.tasks.agreement import require_same_data
from vicreg_jax.tasks.evaluate.report import show_datasets, write_evaluation_report
from vicreg_jax.tasks.features import SplitEvaluation, TrainFeatures, evaluation_settings, network_features
from vicreg_jax.tasks.label_free import LabelFree
from vicreg_jax.tasks.pretrain.build import build_method, build_views
from vicreg_jax.tasks.pretrain.splits import open_pretrain_splits
from vicreg_jax.tasks.splits import explained_data_errors, open_splits
from vicreg_jax.tasks.transfer import as_trained_on, open_transfer, splits_by_field, transfer_results
from vicreg_jax.training.memory import explained_device_errors
from vicreg_jax.training.mesh import make_mesh, replicated
from vicreg_jax.training.progress import open_console
from vicreg_jax.training.state import backbone_of, init_state, run_key

FINISHED = "datasets.json"


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Evaluates the encoder of `evaluate.encoder` on the config's dataset and on those of `evaluation.transfer`.

    The sections `method`, `model` and `augment` of the config matter only for a file of weights. A dataset that was
    finished by an earlier start, with the same encoder, images and settings, is not evaluated again.

    Raises:
        InputError: bad input; nothing has been compiled.
        TrainingError: too many images cannot be read, the devices are out of memory, or a file cannot be written.
    """
    with from_section("method", method="method.name"):
        check_config(config, pretrain_table(config.method.name))
    with from_section("mesh"):
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    encoder = _load_encoder(config)
    config = _for_encoder(config, encoder)
    console = open_console(quiet=not is_first())
    say = functools.partial(console.print, soft_wrap=True)
    with (
        held_workdir(workdir, to_json(config), differences),
        explained_device_errors("Lower config.evaluation.batch_size."),
        explained_data_errors(),
    ):
        evaluations = build_everywhere(lambda: _open(config, encoder, mesh))
        if are_several():
            require_same_data(splits_by_field({name: each.splits for name, each in evaluations.items()}))
        if is_first():
            write_config(workdir, to_json(config))
        network = functools.cache(lambda: _Network(encoder, mesh))  # where there is something left to evaluate
        finished = decide(lambda: read_json(workdir / FINISHED)) or {}
        for name, evaluation in evaluations.items():
            identity = _identity(encoder, evaluation)
            is_finished = finished.get(name, {}).get("of") == identity
            if decide(functools.partial(bool, is_finished)):
                say(f"{name}: evaluated before")
                continue
            with console.status(f"evaluating on {name}"):
                finished[name] = {"of": identity, "results": network().evaluate(evaluation)}
            if is_first():
                write_json(workdir / FINISHED, finished)
        if is_first():
            summary = {
                "encoder": config.evaluate.encoder,
                "encoder_digest": encoder.digest,
                "model": encoder.config.model.name,
                "feature_dim": encoder.feature_dim,
                "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
                "datasets": {name: finished[name]["results"] for name in evaluations},
                "evaluation": to_json(config)["evaluation"],
            }
            write_evaluation_report(workdir / "report.html", summary, to_json(config))
            write_json(workdir / "summary.json", summary)
            show_datasets(console, summary["datasets"])
            say(f"report: {workdir / 'report.html'}")


class _Network:
    """The encoder, and the same network before its first step, on the devices of a mesh."""

    def __init__(self, encoder: Encoder, mesh: Mesh):
        self._encoder = encoder
        whole = replicated(mesh)
        # From the host: the devices of the mesh may be others than where the variables are.
        self._trained = jax.device_put(jax.device_get(encoder.variables), whole)
        self._initial = jax.jit(functools.partial(_initial, encoder), out_shardings=whole)(
            np.uint32(encoder.config.seed)
        )
        self._features_of = network_features(encoder.backbone, encoder.preprocessing)
        views = build_views(encoder.config)
        self._label_free = LabelFree(self._apply, "features", views, encoder.preprocessing)

    def evaluate(self, evaluation: SplitEvaluation) -> dict[str, Any]:
        """What `summary.json` says of a dataset."""

        def features(variables: Any, evaluation: SplitEvaluation) -> tuple[TrainFeatures, LabeledFeatures]:
            return evaluation.features(self._features_of, variables)

        trained, initial = (functools.partial(features, each) for each in (self._trained, self._initial))
        central_fraction = self._encoder.preprocessing.central_fraction
        results = transfer_results(evaluation, trained, {"random_init": initial}, central_fraction)
        return results | {"label_free": self._label_free.metrics(evaluation, self._trained, evaluation.train_data)}

    def _apply(self, variables: Any, images: jax.Array) -> Any:
        return self._encoder.apply(variables, images, train=False)


def _initial(encoder: Encoder, seed: jax.Array) -> dict[str, Any]:
    """The variables of the encoder's run before its first step."""
    size = encoder.preprocessing.image_size
    state = init_state(
        run_key(seed),
        method=build_method(encoder.config),
        optimizer=optax.identity(),
        image_shape=(size, size, encoder.channels),
        num_classes=None,
    )
    return backbone_of(state)


def _load_encoder(config: ConfigDict) -> Encoder:
    name, place = "config.evaluate.encoder", config.evaluate.encoder
    if place is None:
        raise InputError(f"{name} must be a run, an export or a file of weights; got None")
    with named(path=name):
        return load_encoder(os.path.expanduser(place), config=config)


def _for_encoder(config: ConfigDict, encoder: Encoder) -> ConfigDict:
    """The config with the encoder's own image size, canvas and central crop.

    A range of values in numbers is the encoder's affair: images of 8 bits may be evaluated on too.
    """
    own = encoder.config
    changes = {
        "data.image_size": encoder.preprocessing.image_size,
        "data.decode_size": own.data.decode_size,
        "data.value_range": "dtype" if own.data.value_range == "dtype" else "auto",
        "augment.central_fraction": encoder.preprocessing.central_fraction,
    }
    return with_changes(config, changes)


def _open(config: ConfigDict, encoder: Encoder, mesh: Mesh) -> dict[str, SplitEvaluation]:
    """The evaluations by dataset: the config's own first.

    Raises:
        InputError: a dataset or a split is not available, naming the field.
    """
    value_range = encoder.config.data.value_range
    like = encoder.channels, value_range if isinstance(value_range, tuple) else None
    _, *own = open_pretrain_splits(config, open_splits)
    opened = {config.evaluation.name or config.data.name: as_trained_on((own[0], own[1]), *like)}
    opened |= open_transfer(config, *like)
    return {name: SplitEvaluation(config, mesh, *splits) for name, splits in opened.items()}


def _identity(encoder: Encoder, evaluation: SplitEvaluation) -> dict[str, Any]:
    """What the results of a dataset depend on."""
    config = evaluation.config
    settings = dataclasses.asdict(evaluation_settings(config)) | {"seed": config.seed}
    images = [identify(split).record() for split in evaluation.splits]
    return json.loads(json.dumps({"encoder": encoder.digest, "settings": settings, "images": images}))
