"""From a config to what it names, everything checked before anything is compiled."""

import dataclasses

import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from vicreg_jax.config.fields import check_config
from vicreg_jax.data import steps_per_epoch
from vicreg_jax.locoprop.autoencoder import Autoencoder, reconstruction_loss
from vicreg_jax.locoprop.backpropagation import Backpropagation, backpropagation
from vicreg_jax.locoprop.matching import TRANSFERS
from vicreg_jax.locoprop.official import OPTIMIZERS, create_optimizer, official_learning_rate
from vicreg_jax.locoprop.step import LocoProp, locoprop
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.run import TrainableExperiment
from vicreg_jax.tasks.splits import open_splits
from vicreg_jax.training.loop import Plan
from vicreg_jax.training.mesh import batch_sharding, make_mesh


@dataclasses.dataclass(frozen=True)
class LocoPropExperiment(TrainableExperiment):
    """A config, checked, and what it names."""

    model: Autoencoder
    training: LocoProp | Backpropagation

    @property
    def sharding(self) -> NamedSharding:
        """Of images over the devices."""
        return batch_sharding(self.mesh)

    @property
    def method(self) -> str:
        """`locoprop_m`, `locoprop_s`, or by its optimizer what is trained by backpropagation."""
        method = self.config.method
        return f"locoprop_{method.variant}" if method.name == "locoprop" else self.config.optim.name


def rows_of(images: Array) -> Array:
    """Images uint8 `[batch, height, width, channels]` as float32 `[batch, features]` in [0, 1]."""
    return images.reshape(len(images), -1).astype(jnp.float32) / 255


def build(config: ConfigDict) -> LocoPropExperiment:
    """Checks the config and opens its data sets.

    Raises:
      InputError: at the first thing that cannot be used, naming the field.
    """
    check_config(config)
    method, model, optim, train = config.method, config.model, config.optim, config.train
    for name, value, taken in (
        ("method.name", method.name, ("locoprop", "backpropagation")),
        ("model.name", model.name, ("autoencoder",)),
        ("model.transfer", model.transfer, tuple(name for name in TRANSFERS if name != "softmax")),
        ("optim.name", optim.name, OPTIMIZERS),
    ):
        if value not in taken:
            raise InputError(f"config.{name}: got {value!r}, takes one of {', '.join(taken)}")
    if (method.name == "locoprop") != ("variant" in method):
        raise InputError(
            f"config.method.name: got {method.name!r} with the fields of the other, takes it from the config's "
            "argument, such as --config=configs/locoprop_fashion_mnist.py:adam"
        )
    if not 0 <= optim.warmup_epochs < optim.schedule_epochs:
        raise InputError(
            f"config.optim.warmup_epochs: got {optim.warmup_epochs}, takes an integer from 0 to below "
            f"optim.schedule_epochs={optim.schedule_epochs}"
        )
    if train.epochs >= optim.schedule_epochs:
        raise InputError(
            f"config.optim.schedule_epochs: got {optim.schedule_epochs}, takes at least {train.epochs + 1}, one more "
            f"than train.epochs={train.epochs}: the learning rate is 0 from there on"
        )
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    for name, value in (("train", train.batch_size), ("evaluation", config.evaluation.batch_size)):
        if value % mesh.size:
            raise InputError(f"config.{name}.batch_size: got {value}, takes a multiple of the {mesh.size} devices")
    train_data, test_data = open_splits(config, config.data.image_size)
    epoch_steps = steps_per_epoch(len(train_data), train.batch_size)
    autoencoder = Autoencoder(model.widths, model.code, TRANSFERS[model.transfer].function)
    return LocoPropExperiment(
        config=config,
        mesh=mesh,
        train_data=train_data,
        test_data=test_data,
        model=autoencoder,
        training=_training(config, autoencoder, epoch_steps),
        plan=Plan(
            total_steps=epoch_steps * train.epochs,
            steps_per_epoch=epoch_steps,
            batch_size=train.batch_size,
            log_every=config.logging.every_steps,
            evaluate_every=config.evaluation.every_epochs * epoch_steps,
            save_every=config.checkpoint.every_steps,
            save_every_seconds=60 * config.checkpoint.every_minutes,
        ),
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
        variant=method.variant,
        activation_rate=method.activation_rate,
        local_steps=method.local_steps,
        local_form=method.local_form,
        inner_optimizer=optimizer,
        learning_rate=learning_rate,
        output_transfer="sigmoid",
    )
