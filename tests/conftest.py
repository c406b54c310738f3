"""Every test sees eight CPU devices, so that one, two, four and eight are tested in one process."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module")
def quick_compilation():
    """For tests whose time goes into compiling: `pytestmark = pytest.mark.usefixtures("quick_compilation")`."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
