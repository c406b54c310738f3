"""What the sections of a config name, for more than one task."""

import optax
from ml_collections import ConfigDict

from vicreg_jax.augment import View, recipe
from vicreg_jax.config import from_section
from vicreg_jax.optim import warmup_cosine, warmup_drops, warmup_stable_decay
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.training.plan import Plan

# Fields of the section `augment` that are no overrides of the recipe.
_NOT_OF_THE_RECIPE = ("recipe", "mean", "std", "central_fraction")


def check_batch_sizes(batch_size: int, microbatch_size: int | None, devices: int) -> None:
    """Refuses batches that the devices, or the microbatches, do not divide.

    Raises:
        InputError: naming the field.
    """
    if batch_size % devices:
        raise InputError(f"config.train.batch_size must be a multiple of the {devices} devices; got {batch_size}")
    if microbatch_size is not None and (batch_size % microbatch_size or microbatch_size % devices):
        raise InputError(
            f"config.train.microbatch_size must be a divisor of the batch of {batch_size} and a multiple of the "
            f"{devices} device(s); got {microbatch_size}"
        )


def plan_of(config: ConfigDict, epoch_steps: int) -> Plan:
    """The plan of a run over `train.epochs` epochs of that many steps."""
    return Plan(
        total_steps=epoch_steps * config.train.epochs,
        steps_per_epoch=epoch_steps,
        batch_size=config.train.batch_size,
        log_every=config.logging.every_steps,
        evaluate_every=config.evaluation.every_epochs * epoch_steps,
        save_every=config.checkpoint.every_steps,
        save_every_seconds=60 * config.checkpoint.every_minutes,
    )


def build_views(config: ConfigDict) -> tuple[View, ...]:
    """The views of each image, the global ones first.

    Raises:
        InputError: an unknown recipe, or views that it cannot have.
    """
    overrides = {
        name: value for name, value in config.augment.items() if name not in _NOT_OF_THE_RECIPE and value is not None
    }
    with from_section("augment", name="augment.recipe"):
        return recipe(config.augment.recipe, **overrides)


def planned_schedule(config: ConfigDict, base_lr: float, epoch_steps: int, epochs: int) -> optax.Schedule:
    """The schedule that the section `optim` names, over that many epochs.

    Raises:
        InputError: naming the field that is not valid.
    """
    optim = config.optim
    shared = {
        "base_lr": base_lr,
        "batch_size": config.train.batch_size,
        "steps_per_epoch": epoch_steps,
        "warmup_epochs": optim.warmup_epochs,
    }
    if optim.schedule != "drops" and optim.drop_epochs:
        raise InputError(
            f"config.optim.drop_epochs must be () with optim.schedule={optim.schedule!r}; got {optim.drop_epochs} "
            "(set optim.schedule='drops')"
        )
    with from_section("optim", final_fraction="optim.final_lr_fraction"):
        if optim.schedule == "drops":
            return warmup_drops(**shared, drop_epochs=optim.drop_epochs)
        if optim.schedule == "wsd":
            return warmup_stable_decay(
                **shared, epochs=epochs, decay_fraction=optim.decay_fraction, final_fraction=optim.final_lr_fraction
            )
        return warmup_cosine(**shared, epochs=epochs, final_fraction=optim.final_lr_fraction)
