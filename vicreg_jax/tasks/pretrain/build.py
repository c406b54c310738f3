"""From a config to the objects it names, everything checked before anything is compiled."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from vicreg_jax.augment import View, central_view, recipe
from vicreg_jax.config.fields import check_config, flatten, method_section
from vicreg_jax.data import steps_per_epoch
from vicreg_jax.methods import METHODS, JointEmbedding
from vicreg_jax.models import Head, create_backbone
from vicreg_jax.optim import create_optimizer, warmup_cosine, warmup_drops
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.run import TrainableExperiment
from vicreg_jax.tasks.splits import open_splits
from vicreg_jax.training.loop import Plan
from vicreg_jax.training.mesh import make_mesh

# Of updates that are not finite, more than these and more than a hundredth of all are no accident.
_SKIPPED_AT_LEAST = 10


@contextmanager
def _field(name: str) -> Iterator[None]:
    """Puts the config field's name before what a room says of the value it was given."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"config.{name}: {error}") from error


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the network's input, apart from augmentation.

    Attributes:
      image_size: side of a view, in pixels.
      mean, std: of pixels in [0, 1]; one value, or one a channel.
      central_fraction: of the shorter side, kept by the central crop that evaluation sees.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    central_fraction: float

    def central_view(self, images: jax.Array, aspect_ratio: jax.Array) -> jax.Array:
        """Canvases uint8 `[batch, canvas, canvas, channels]` -> `[batch, image_size, image_size, channels]` float32."""
        return central_view(
            images,
            aspect_ratio,
            image_size=self.image_size,
            crop_fraction=self.central_fraction,
            mean=self.mean,
            std=self.std,
        )


@dataclass(frozen=True)
class Experiment(TrainableExperiment):
    """A config, checked, and the objects it names; the data sets are open, nothing is compiled."""

    preprocessing: Preprocessing
    views: tuple[View, View]
    method: JointEmbedding
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of a view: `(image_size, image_size, channels)`."""
        return (self.preprocessing.image_size,) * 2 + (self.train_data.channels,)

    def features(self) -> Callable[[dict, dict[str, jax.Array]], jax.Array]:
        """The function `(backbone variables, batch) -> features [batch, feature_dim]` of the images' central views."""

        def apply(variables: dict, batch: dict[str, jax.Array]) -> jax.Array:
            images = self.preprocessing.central_view(batch["image"], batch["aspect_ratio"])
            features: Any = self.method.backbone.apply(variables, images, train=False)
            return features

        return apply

    def embeddings(self) -> Callable[[tuple[Any, Any], dict[str, jax.Array]], jax.Array]:
        """The function `((params, batch_stats), batch) -> embeddings [batch, dim]` of the images' central views."""

        def apply(variables: tuple[Any, Any], batch: dict[str, jax.Array]) -> jax.Array:
            images = self.preprocessing.central_view(batch["image"], batch["aspect_ratio"])
            return self.method.embed(*variables, images)[1]

        return apply


def build_backbone(config: ConfigDict, field: str = "model.name") -> nn.Module:
    """The backbone that the config names, in `field`.

    Raises:
      InputError: an unknown name or stem, or images too small for it.
    """
    model, size = config.model, config.data.image_size
    name = flatten(config)[field]
    with _field(field):
        backbone = create_backbone(
            name,
            width=model.width,
            stem=model.stem,
            dtype=jnp.dtype(config.train.precision),
            remat=config.train.remat,
        )
    if size < backbone.minimum_image_size:
        raise InputError(
            f"config.data.image_size: got {size}, takes at least {backbone.minimum_image_size} for "
            f"{field}={name!r} with model.stem={model.stem!r}"
        )
    return backbone


def build_preprocessing(config: ConfigDict, channels: int) -> Preprocessing:
    """The preprocessing that the config names, for images of that many channels."""
    for name in ("mean", "std"):
        if len(config.augment[name]) not in (1, channels):
            raise InputError(
                f"config.augment.{name}: got {config.augment[name]!r} for images of {channels} channel(s), "
                f"takes one number, or {channels}"
            )
    return Preprocessing(
        config.data.image_size, config.augment.mean, config.augment.std, config.augment.central_fraction
    )


def _build_views(config: ConfigDict) -> tuple[View, View]:
    overrides = {
        name: value
        for name, value in config.augment.items()
        if name not in ("recipe", "mean", "std", "central_fraction") and value is not None
    }
    with _field("augment.recipe"):
        recipe(config.augment.recipe)
    with _field("augment"):
        return recipe(config.augment.recipe, **overrides)


def build_method(config: ConfigDict) -> JointEmbedding:
    """The method that the config names, with its networks.

    Raises:
      InputError: fields of another method, a part that the method does not have, parts that do not fit each other, or
        what the method itself refuses.
    """
    model, arguments = config.model, dict(config.method)
    name = arguments.pop("name")
    if config.method.keys() != method_section(name).keys():
        raise InputError(
            f"config.method.name: got {name!r} with the fields of another method, "
            f"takes it from the config's argument, such as --config=configs/digits.py:{name}"
        )
    method = METHODS[name]
    if model.predictor_dims and not method.takes_predictor:
        raise InputError(
            f"config.model.predictor_dims: got {model.predictor_dims}, takes () for {name} has no predictor"
        )
    if model.predictor_dims and model.predictor_dims[-1] != model.head_dims[-1]:
        raise InputError(
            f"config.model.predictor_dims: got {model.predictor_dims}, takes {model.head_dims[-1]} for the last, "
            f"as in model.head_dims={model.head_dims}"
        )
    if model.second_name is not None and "backbone" in model.shared:
        raise InputError(
            f"config.model.second_name: got {model.second_name!r}, takes None where model.shared={model.shared} "
            "has the backbone"
        )
    if len(model.shared) < 2 and not method.takes_second_branch:
        raise InputError(
            f"config.model.shared: got {model.shared}, takes ('backbone', 'head') for {name}, "
            "whose two branches are the same network"
        )

    def head(dims: tuple[int, ...], options: Mapping[str, Any]) -> Head:
        if model.head_batch_norm is not None:
            options = {**options, "batch_norm": model.head_batch_norm}
        return Head(tuple(dims), dtype=jnp.dtype(config.train.precision), **options)

    if config.optim.constant_predictor_lr and not model.predictor_dims:
        raise InputError("config.optim.constant_predictor_lr: got True, takes False where there is no predictor")
    first = build_backbone(config)
    parts: dict[str, Any] = {}
    if "backbone" not in model.shared:
        second = build_backbone(config, "model.name" if model.second_name is None else "model.second_name")
        if "head" in model.shared and second.feature_dim != first.feature_dim:
            raise InputError(
                f"config.model.second_name: got {model.second_name!r} with {second.feature_dim} features, takes one "
                f"with {first.feature_dim}, as model.name={model.name!r}: the branches share the head"
            )
        parts["second_backbone"] = second
    if "head" not in model.shared:
        parts["second_head"] = head(model.head_dims, method.head_options)
    if model.predictor_dims:
        parts["predictor"] = head(model.predictor_dims, method.predictor_options)
    microbatches = config.train.batch_size // (config.train.microbatch_size or config.train.batch_size)
    try:
        built = method(
            first, head(model.head_dims, method.head_options), microbatches=microbatches, **parts, **arguments
        )
        built.check_batch_size(config.train.batch_size)
    except ValueError as error:
        # A method's complaint begins with the field's name.
        raise InputError(f"config.method.{error}") from error
    return built


def build(config: ConfigDict) -> Experiment:
    """Checks the config, opens its data sets (preparing them if they are new), and builds what it names.

    Raises:
      InputError: at the first thing that cannot be used, naming the field.
    """
    check_config(config)
    train = config.train
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    if train.batch_size % mesh.size:
        raise InputError(
            f"config.train.batch_size: got {train.batch_size}, takes a multiple of the {mesh.size} devices"
        )
    if train.microbatch_size is not None and (
        train.batch_size % train.microbatch_size or train.microbatch_size % mesh.size
    ):
        raise InputError(
            f"config.train.microbatch_size: got {train.microbatch_size}, takes a divisor of the batch of "
            f"{train.batch_size} that is a multiple of the {mesh.size} device(s)"
        )
    views = _build_views(config)
    method = build_method(config)

    train_data, test_data = open_splits(config, config.data.decode_size)
    epoch_steps = steps_per_epoch(len(train_data), train.batch_size)
    optim = config.optim
    with _field("optim"):
        if optim.drop_epochs:
            schedule = warmup_drops(
                optim.base_lr,
                batch_size=train.batch_size,
                steps_per_epoch=epoch_steps,
                warmup_epochs=optim.warmup_epochs,
                drop_epochs=optim.drop_epochs,
            )
        else:
            schedule = warmup_cosine(
                optim.base_lr,
                batch_size=train.batch_size,
                steps_per_epoch=epoch_steps,
                warmup_epochs=optim.warmup_epochs,
                epochs=train.epochs,
                final_fraction=optim.final_lr_fraction,
            )
    with _field("optim.name"):
        optimizer = create_optimizer(
            optim.name,
            schedule,
            weight_decay=optim.weight_decay,
            momentum=optim.momentum,
            trust_coefficient=optim.trust_coefficient,
            decay_biases=optim.decay_biases,
            bias_lr_factor=optim.bias_lr_factor,
            clip_trust_ratio=optim.clip_trust_ratio,
            lr_in_momentum=optim.lr_in_momentum,
            constant_predictor_lr=optim.base_lr * train.batch_size / 256 if optim.constant_predictor_lr else None,
        )
    return Experiment(
        config=config,
        mesh=mesh,
        train_data=train_data,
        test_data=test_data,
        preprocessing=build_preprocessing(config, train_data.channels),
        views=views,
        method=method,
        schedule=schedule,
        optimizer=optimizer,
        plan=Plan(
            total_steps=epoch_steps * train.epochs,
            steps_per_epoch=epoch_steps,
            batch_size=train.batch_size,
            log_every=config.logging.every_steps,
            evaluate_every=config.evaluation.every_epochs * epoch_steps,
            save_every=config.checkpoint.every_steps,
            save_every_seconds=60 * config.checkpoint.every_minutes,
            most_skipped=max(_SKIPPED_AT_LEAST, epoch_steps * train.epochs // 100),
        ),
    )
