"""Schedules, and the clipped trust ratio at zeros, under JAX's strict modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.optim import lars, warmup_cosine, warmup_drops

pytestmark = pytest.mark.usefixtures("strict_modes")

SCHEDULES = {
    "warmup_cosine": warmup_cosine(0.2, 256, 2, 1, 5),
    "warmup_drops": warmup_drops(0.2, 256, 2, 1, (2, 4)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name) -> None:
    schedule = SCHEDULES[name]
    jax.eval_shape(schedule, jnp.int32(0))
    for step in (3, np.int64(3), jnp.int32(3)):
        schedule(step)


@pytest.mark.slow
def test_clipped_trust_ratio_of_zeros_at_a_rate_of_zero() -> None:
    optimizer = lars(SCHEDULES["warmup_cosine"], clip_trust_ratio=True, weight_decay=0.0)
    params = {"zero": jnp.zeros((2, 3)), "bias": jnp.ones(3), "kernel": jnp.ones((3, 2))}
    gradient = {"zero": jnp.zeros((2, 3)), "bias": jnp.ones(3), "kernel": jnp.zeros((3, 2))}
    optimizer.update(gradient, optimizer.init(params), params)
