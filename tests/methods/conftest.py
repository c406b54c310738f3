"""Fixtures of the tests of the methods."""

from typing import Any

import jax
import pytest
from flax import linen as nn


class Linear(nn.Module):
    """A single matrix, in the precision of its input."""

    dim: int

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False) -> jax.Array:
        return x @ self.param("kernel", nn.initializers.orthogonal(), (x.shape[-1], self.dim), x.dtype)


@pytest.fixture(scope="session")
def linear():
    """A part that computes in the precision of its input; those of `vicreg_jax.models` return float32."""
    return Linear


@pytest.fixture
def float64():
    """Run the test in float64."""
    with jax.enable_x64(True):
        yield
