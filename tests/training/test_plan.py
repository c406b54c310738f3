"""What happens at which step of a run."""

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.training.plan import Plan

PLAN = Plan(total_steps=90, steps_per_epoch=10, batch_size=8, log_every=20, save_every=50)


def test_progress_is_the_fraction_of_all_steps():
    np.testing.assert_allclose(jax.jit(jax.vmap(PLAN.progress))(jnp.arange(90)), np.arange(90) / 90, rtol=1e-6)


def test_progress_of_an_extended_run_is_that_of_the_length_it_had():
    plan = Plan(90, 10, 8, 20, 50, shorter=((20, 30), (40, 60)))
    expected = [step / (30 if step < 20 else 60 if step < 40 else 90) for step in range(90)]
    np.testing.assert_allclose(jax.jit(jax.vmap(plan.progress))(jnp.arange(90)), expected, rtol=1e-6)


def test_kept_steps_are_saved():
    plan = Plan(90, 10, 8, 20, 50, kept=(72,))
    assert [step for step in range(1, 91) if plan.is_saved(step)] == [50, 72, 90]
