"""`launch.py`, in which the step after 12 updates gives NaN, with FAULT='nan 12', or hangs, with FAULT='hang 12'.

For VICReg and the default seed: a loss knows its step by the key alone.
"""

import os
import runpy
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp

from vicreg_jax.methods.vicreg import VICReg
from vicreg_jax.training.state import step_key

fault, step = os.environ["FAULT"].split()
loss_as_it_is = VICReg.loss


def loss(self, params, batch_stats, extra_state, views, key):
    value, outputs = loss_as_it_is(self, params, batch_stats, extra_state, views, key)
    _, of_training = jax.random.split(jax.random.key(0))  # as `init_state` has it
    then = jax.random.fold_in(step_key(jax.random.key_data(of_training), int(step)), len(views))
    is_now = jnp.all(jax.random.key_data(key) == jax.random.key_data(then))
    if fault == "hang":
        jax.debug.callback(lambda is_now: is_now and threading.Event().wait(), is_now)
        return value, outputs
    # A product, so that the gradient is NaN too.
    return value * jnp.where(is_now, jnp.nan, 1.0), outputs


VICReg.loss = loss

runpy.run_path(str(Path(__file__).parents[2] / "launch.py"), run_name="__main__")
