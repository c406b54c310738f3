"""Every test sees eight CPU devices, so that one, two, four and eight are tested in one process."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

jax.config.update("jax_num_cpu_devices", 8)
