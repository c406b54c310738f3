"""From the config of a LocoProp run to what it names, everything checked before anything compiles."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vicreg_jax.config import check_config, from_section
from vicreg_jax.data import steps_per_epoch
from vicreg_jax.locoprop.autoencoder import Autoencoder, reconstruction_loss
from vicreg_jax.locoprop.backpropagation import Backpropagation, backpropagation
from vicreg_jax.locoprop.matching import TRANSFERS
from vicreg_jax.locoprop.official import create_optimizer, official_learning_rate
from vicreg_jax.locoprop.options import LocoPropOptions
from vicreg_jax.locoprop.step import LocoProp, locoprop
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.locoprop.config import locoprop_table
from vicreg_jax.tasks.parts import plan_of
from vicreg_jax.tasks.task import HERE, Experiment, Site
from vicreg_jax.training.mesh import make_mesh


@dataclass(frozen=True)
class LocoPropExperiment(Experiment):
    """A checked config and what it names."""

    model: Autoencoder
    training: LocoProp | Backpropagation

    @property
    def method(self) -> str:
        """`locoprop_m`, `locoprop_s`, or the optimizer of backpropagation."""
        return f"locoprop_{method_of(self.config)}" if "variant" in self.config.method else self.config.optim.name


def method_of(config: ConfigDict) -> str:
    """The config's argument: 'm' or 's', or the optimizer of backpropagation."""
    return config.method.get("variant", config.optim.name)


def rows_of(images: Array) -> Array:
    """Images uint8 `[batch, height, width, channels]` as float32 `[batch, features]` in [0, 1]."""
    return images.reshape(len(images), -1).astype(jnp.float32) / 255


def build(config: ConfigDict, site: Site = HERE) -> LocoPropExperiment:
    """Checks the config and opens its datasets.

    Raises:
        InputError: at the first field that is not valid, naming it.
    """
    check_config(config, locoprop_table(method_of(config)))
    method, model, optim, train = config.method, config.model, config.optim, config.train
    if (method.name == "locoprop") != ("variant" in method):
        raise InputError(
            "config.method.name must be chosen by the config's argument, such as "
            f"--config=configs/locoprop_fashion_mnist.py:adam; got {method.name!r} with the fields of the other method"
        )
    if not optim.warmup_epochs < optim.schedule_epochs:
        raise InputError(
            f"config.optim.warmup_epochs must be below optim.schedule_epochs={optim.schedule_epochs}; "
            f"got {optim.warmup_epochs}"
        )
    if train.epochs >= optim.schedule_epochs:
        raise InputError(
            f"config.optim.schedule_epochs must be above train.epochs={train.epochs}, for the learning rate is 0 from "
            f"there on; got {optim.schedule_epochs}"
        )
    with from_section("mesh"):
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp, site.devices)
    for section, batch_size in (("train", train.batch_size), ("evaluation", config.evaluation.batch_size)):
        if batch_size % mesh.size:
            raise InputError(
                f"config.{section}.batch_size must be a multiple of the {mesh.size} devices; got {batch_size}"
            )
    train_data, test_data = site.open_splits(config, config.data.image_size)
    with from_section("train"):
        epoch_steps = steps_per_epoch(len(train_data), train.batch_size)
    autoencoder = Autoencoder(model.widths, model.code, TRANSFERS[model.transfer].function)
    return LocoPropExperiment(
        config=config,
        mesh=mesh,
        train_data=train_data,
        evaluation_train_data=train_data,
        test_data=test_data,
        model=autoencoder,
        training=_training(config, autoencoder, epoch_steps),
        plan=plan_of(config, epoch_steps),
    )


def _training(config: ConfigDict, model: Autoencoder, epoch_steps: int) -> LocoProp | Backpropagation:
    optim, method = config.optim, config.method
    optimizer = create_optimizer(optim.name, momentum=optim.momentum, decay=optim.decay, epsilon=optim.epsilon)
    learning_rate = official_learning_rate(
        epoch_steps, peak=optim.base_lr, epochs=optim.schedule_epochs, warmup_epochs=optim.warmup_epochs
    )
    if method.name == "backpropagation":
        return backpropagation(model, reconstruction_loss, optimizer=optimizer, learning_rate=learning_rate)
    return locoprop(
        model,
        reconstruction_loss,
        LocoPropOptions(
            variant=method.variant,
            activation_rate=method.activation_rate,
            local_steps=method.local_steps,
            local_form=method.local_form,
            output_transfer="sigmoid",
        ),
        inner_optimizer=optimizer,
        learning_rate=learning_rate,
    )
