"""The learning rate of a pretraining run by step, extensions included."""

import optax
from ml_collections import ConfigDict

from vicreg_jax.config import from_section
from vicreg_jax.optim import cosine_from, decay_start, switched
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.parts import planned_schedule


def build_schedule(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """The schedule of the run: as it was planned first, then as each extension planned it anew.

    Raises:
        InputError: naming the field that is not valid.
    """
    lengths = _lengths(config)
    schedule = planned_schedule(config, config.optim.base_lr, epoch_steps, lengths[0])
    final_rate = config.optim.final_lr_fraction * peak_rate(config)
    for (step, _, how), epochs in zip(config.train.extensions, lengths[1:], strict=True):
        if how == "replan":
            schedule = switched(schedule, step, planned_schedule(config, config.optim.base_lr, epoch_steps, epochs))
        else:
            with from_section("train", total_steps="train.epochs"):
                schedule = cosine_from(schedule, step, epochs * epoch_steps, final_rate)
    return schedule


def end_of_plateau(config: ConfigDict, epoch_steps: int) -> tuple[int, ...]:
    """The last step at a constant rate, from which a run of that schedule is best extended."""
    optim, extensions = config.optim, config.train.extensions
    if optim.schedule != "wsd" or (extensions and extensions[-1][2] != "replan"):
        return ()
    return (decay_start(epoch_steps, optim.warmup_epochs, config.train.epochs, optim.decay_fraction),)


def peak_rate(config: ConfigDict) -> float:
    """The largest learning rate of the schedule."""
    return config.optim.base_lr * config.train.batch_size / 256


def _lengths(config: ConfigDict) -> list[int]:
    """The epochs that the run was first planned for, and those after each extension."""
    lengths = [epochs for _, epochs, _ in config.train.extensions] + [config.train.epochs]
    if len(lengths) > 1 and lengths[-2] >= lengths[-1]:
        raise InputError(
            f"config.train.epochs must be above {lengths[-2]}, the epochs before the last of train.extensions; "
            f"got {lengths[-1]}"
        )
    return lengths
