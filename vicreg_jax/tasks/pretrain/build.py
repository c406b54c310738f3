"""From the config of a pretraining run to the objects that it names, everything checked before anything compiles."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vicreg_jax.augment import Preprocessing, View
from vicreg_jax.config import check_config, from_section, pretrain_table, with_changes
from vicreg_jax.data import Dataset, steps_per_epoch
from vicreg_jax.encoder import build_backbone, build_preprocessing
from vicreg_jax.methods import METHODS, JointEmbedding
from vicreg_jax.models import Head
from vicreg_jax.optim import OptimizerOptions, create_optimizer
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.parts import build_views, check_batch_sizes, plan_of
from vicreg_jax.tasks.pretrain.schedule import build_schedule, end_of_plateau, peak_rate
from vicreg_jax.tasks.pretrain.splits import open_pretrain_splits
from vicreg_jax.tasks.task import HERE, Experiment, Site
from vicreg_jax.tasks.transfer import Splits, open_transfer, splits_by_field
from vicreg_jax.training.mesh import make_mesh

# More skipped updates than these, and than one in a hundred, are no accident.
_MIN_SKIPPED = 10


@dataclass(frozen=True)
class PretrainExperiment(Experiment):
    """A checked config and the objects that it names; the datasets are open, nothing is compiled."""

    preprocessing: Preprocessing
    views: tuple[View, ...]
    method: JointEmbedding
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    transfer: Mapping[str, Splits]  # other datasets of the final evaluation, by entry of `evaluation.transfer`

    @property
    def splits(self) -> dict[str, Dataset]:
        """See `Experiment`; with those of the other datasets."""
        return super().splits | splits_by_field(self.transfer)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of a global view: `(image_size, image_size, channels)`."""
        return (self.preprocessing.image_size,) * 2 + (self.train_data.channels,)


def build(config: ConfigDict, site: Site = HERE) -> PretrainExperiment:
    """Checks the config, opens its datasets (preparing new ones), and builds what it names.

    Raises:
        InputError: at the first field that is not valid, naming it.
    """
    with from_section("method", method="method.name"):
        table = pretrain_table(config.method.name)
    check_config(config, table)
    with from_section("mesh"):
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp, site.devices)
    train = config.train
    check_batch_sizes(train.batch_size, train.microbatch_size, mesh.size)
    views = build_views(config)
    method = build_method(config, mesh.devices.flat[0].platform)
    train_data, evaluation_train_data, test_data = open_pretrain_splits(config, site.open_splits)
    with from_section("train"):
        epoch_steps = steps_per_epoch(len(train_data), train.batch_size)
    schedule = build_schedule(config, epoch_steps)
    return PretrainExperiment(
        config=config,
        mesh=mesh,
        train_data=train_data,
        evaluation_train_data=evaluation_train_data,
        test_data=test_data,
        preprocessing=build_preprocessing(config, train_data.channels),
        views=views,
        method=method,
        schedule=schedule,
        optimizer=_build_optimizer(config, schedule),
        transfer=open_transfer(config, train_data.channels, train_data.value_range) if site.opens_transfer else {},
        plan=dataclasses.replace(
            plan_of(config, epoch_steps),
            kept=end_of_plateau(config, epoch_steps),
            shorter=tuple((step, epochs * epoch_steps) for step, epochs, _ in train.extensions),
            max_skipped=max(_MIN_SKIPPED, epoch_steps * train.epochs // 100),
        ),
    )


def build_method(config: ConfigDict, platform: str = "cpu") -> JointEmbedding:
    """The method that the config names, with its networks in the form that is fastest on the platform.

    Raises:
        InputError: fields of another method, a part that the method lacks, parts that do not fit each other, or a field
            that the method refuses.
    """
    model, arguments = config.model, dict(config.method)
    name = arguments.pop("name")
    _check_method(config)
    method, views = METHODS[name], build_views(config)

    def head(dims: tuple[int, ...], options: Mapping[str, Any]) -> Head:
        if model.head_batch_norm is not None:
            options = {**options, "batch_norm": model.head_batch_norm}
        return Head(tuple(dims), dtype=jnp.dtype(config.train.precision), **options)

    first = build_backbone(config, platform=platform)
    for size in {view.image_size for view in views if view.image_size is not None}:
        _check_local_size(config, size)
    parts: dict[str, Any] = {"global_views": sum(not view.local for view in views)}
    if "backbone" not in model.shared:
        field = "model.name" if model.second_name is None else "model.second_name"
        second = build_backbone(config, field, platform)
        if "head" in model.shared and second.feature_dim != first.feature_dim:
            raise InputError(
                f"config.model.second_name must have {first.feature_dim} features, as model.name={model.name!r}, where "
                f"the branches share the head; got {model.second_name!r} with {second.feature_dim}"
            )
        parts["second_backbone"] = second
    if "head" not in model.shared:
        parts["second_head"] = head(model.head_dims, method.head_options)
    if model.predictor_dims:
        parts["predictor"] = head(model.predictor_dims, method.predictor_options)
    parts["microbatches"] = config.train.batch_size // (config.train.microbatch_size or config.train.batch_size)
    with from_section("method", global_views="augment.global_views"):
        built = method(first, head(model.head_dims, method.head_options), **parts, **arguments)
        built.check_batch_size(config.train.batch_size)
    return built


def _check_local_size(config: ConfigDict, size: int) -> None:
    try:
        build_backbone(with_changes(config, {"data.image_size": size}))
    except InputError as error:
        raise InputError(str(error).replace("data.image_size", "augment.local_size")) from error


def _check_method(config: ConfigDict) -> None:
    """Refuses fields of `method` and `model` that do not belong to the method."""
    model, name = config.model, config.method.name
    method = METHODS[name]
    expected = {field.removeprefix("method.") for field in pretrain_table(name) if field.startswith("method.")}
    if set(config.method.keys()) != expected:
        raise InputError(
            "config.method.name must be chosen by the config's argument, such as "
            f"--config=configs/digits.py:{name}; got {name!r} with the fields of another method"
        )
    if model.predictor_dims and not method.takes_predictor:
        raise InputError(
            f"config.model.predictor_dims must be (), for {name} has no predictor; got {model.predictor_dims}"
        )
    if model.predictor_dims and model.predictor_dims[-1] != model.head_dims[-1]:
        raise InputError(
            f"config.model.predictor_dims must end with {model.head_dims[-1]}, as model.head_dims; "
            f"got {model.predictor_dims}"
        )
    if config.optim.constant_predictor_lr and not model.predictor_dims:
        raise InputError("config.optim.constant_predictor_lr must be False without a predictor; got True")
    if model.second_name is not None and "backbone" in model.shared:
        raise InputError(
            f"config.model.second_name must be None where model.shared={model.shared} includes the backbone; "
            f"got {model.second_name!r}"
        )
    if len(model.shared) < 2 and not method.takes_second_branch:
        raise InputError(
            f"config.model.shared must be ('backbone', 'head') for {name}, whose branches are one network; "
            f"got {model.shared}"
        )
    views = build_views(config)
    if len(views) > 2 and not method.takes_many_views:
        raise InputError(
            f"config.augment.recipe must have two views for {name}, which takes no more; got "
            f"{config.augment.recipe!r} with {len(views)}"
        )
    if len(model.shared) < 2 and (len(views) > 2 or views[-1].local):
        raise InputError(
            f"config.model.shared must be ('backbone', 'head') with local or more than two views; got {model.shared}"
        )


def _build_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    optim = config.optim
    peak = peak_rate(config)
    with from_section("optim"):
        options = OptimizerOptions(
            optim.name,
            weight_decay=optim.weight_decay,
            momentum=optim.momentum,
            trust_coefficient=optim.trust_coefficient,
            decay_biases=optim.decay_biases,
            bias_lr_factor=optim.bias_lr_factor,
            clip_trust_ratio=optim.clip_trust_ratio,
            lr_in_momentum=optim.lr_in_momentum,
        )
        return create_optimizer(options, schedule, constant_predictor_lr=peak if optim.constant_predictor_lr else None)
