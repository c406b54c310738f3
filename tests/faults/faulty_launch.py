"""`launch.py` with a fault: one of these in the variable FAULT.

* 'nan 12' or 'hang 12': the step after 12 updates gives NaN, or hangs. For VICReg and the default seed: a loss knows
  its step by the key alone.
* 'late 40': process 1 takes 40 seconds longer to compile the train step.
"""

import os
import runpy
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp

from vicreg_jax.methods.vicreg import VICReg
from vicreg_jax.training.state import step_key

fault, argument = os.environ["FAULT"].split()
number = int(argument)
loss_as_it_is = VICReg.loss


def loss(self, params, batch_stats, extra_state, views, key):
    value, outputs = loss_as_it_is(self, params, batch_stats, extra_state, views, key)
    _, of_training = jax.random.split(jax.random.key(0))  # as `init_state` has it
    then = jax.random.fold_in(step_key(jax.random.key_data(of_training), number), len(views))
    is_now = jnp.all(jax.random.key_data(key) == jax.random.key_data(then))
    if fault == "hang":
        jax.debug.callback(lambda is_now: is_now and threading.Event().wait(), is_now)
        return value, outputs
    # A product, so that the gradient is NaN too.
    return value * jnp.where(is_now, jnp.nan, 1.0), outputs


def compile_late(lowered, *arguments, **options):
    time.sleep(number)
    return compile_as_it_is(lowered, *arguments, **options)


if fault != "late":
    VICReg.loss = loss
elif "--process_id=1" in sys.argv:
    compile_as_it_is, jax.stages.Lowered.compile = jax.stages.Lowered.compile, compile_late

runpy.run_path(str(Path(__file__).parents[2] / "launch.py"), run_name="__main__")
