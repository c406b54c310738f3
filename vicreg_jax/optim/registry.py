"""Optimisers by name."""

import difflib

import optax

from vicreg_jax.optim.lars import lars, weights_only

OPTIMIZERS = ("lars", "sgd", "adamw")


def create_optimizer(
    name: str,
    schedule: optax.ScalarOrSchedule,
    *,
    weight_decay: float,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
) -> optax.GradientTransformation:
    """Create the optimiser of that name; in all of them 1-D parameters are not decayed.

    Args:
      name: "lars"; "sgd", which is LARS without adaptation; or "adamw", whose decay is decoupled.
      schedule: learning rate, or a function of the step, from 0.
      weight_decay: factor of the parameters that is added to the gradient ("adamw": to the update).
      momentum: of the buffer; in "adamw" the decay of the first moment (the second's is 0.999).
      trust_coefficient: of "lars"; the others have none.

    Returns:
      A transformation whose updates are added to the parameters (`optax.apply_updates`).

    Raises:
      ValueError: an unknown name.
    """
    if name == "lars":
        return lars(schedule, weight_decay, momentum, trust_coefficient)
    if name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(weight_decay, mask=weights_only),
            optax.trace(momentum),
            optax.scale_by_learning_rate(schedule),
        )
    if name == "adamw":
        return optax.adamw(schedule, b1=momentum, weight_decay=weight_decay, mask=weights_only)
    close = difflib.get_close_matches(str(name), OPTIMIZERS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"optimizer is {name!r}; taken are {', '.join(OPTIMIZERS)}{hint}")
