"""Schedules of a run that is trained longer than planned."""

import jax.numpy as jnp
import optax


def switched(schedule: optax.Schedule, step: int, later: optax.Schedule) -> optax.Schedule:
    """`schedule` before a step, `later` from it on.

    Example:
        >>> schedule = switched(lambda step: 0.5, 10, lambda step: 0.1)
        >>> [round(float(schedule(step)), 2) for step in (0, 9, 10, 20)]
        [0.5, 0.5, 0.1, 0.1]
    """
    return lambda now: jnp.where(now < step, schedule(now), later(now))


def cosine_from(schedule: optax.Schedule, step: int, total_steps: int, final_rate: float) -> optax.Schedule:
    r"""A cosine from the learning rate of a schedule at a step to `final_rate`; before that step, the schedule itself.

    With the rate :math:`\alpha_S` of the schedule at the step :math:`S`, :math:`N` steps in all, and the final rate
    :math:`f`, :math:`\alpha_S` where that is lower:

    .. math::

        \alpha_s = f + (\alpha_S - f) (1 + \cos(\pi (s - S) / (N - S))) / 2 \quad (s \ge S).

    After the last step it stays at :math:`f`.

    Args:
        schedule: From the step to the learning rate.
        step: Where the cosine begins.
        total_steps: Where it ends.
        final_rate: Last learning rate.

    Returns:
        A function from the step (a number or an integer array) to the learning rate.

    Raises:
        ValueError: If `total_steps` is not above `step`.

    Example:
        >>> schedule = cosine_from(lambda step: 0.4, 10, total_steps=20, final_rate=0.0)
        >>> [round(float(schedule(step)), 2) for step in (5, 10, 15, 20, 25)]
        [0.4, 0.4, 0.2, 0.0, 0.0]
    """
    if total_steps <= step:
        raise ValueError(f"total_steps must be above step={step}; got {total_steps}")

    def cosine(now):
        first = schedule(step)
        last = jnp.minimum(first, final_rate)
        progress = jnp.clip((now - step) / (total_steps - step), 0, 1)
        return last + (first - last) * (1 + jnp.cos(jnp.pi * progress)) / 2

    return switched(schedule, step, cosine)
