"""Projectors and predictors have the parameters of the official code."""

import jax
import jax.numpy as jnp
import pytest

from vicreg_jax.methods import METHODS
from vicreg_jax.models import Head

NORM = {"scale", "bias"}


@pytest.mark.parametrize(
    ("name", "dims", "expected"),
    [
        ("vicreg", (9, 9, 8), [{"kernel", "bias"}, NORM, {"kernel", "bias"}, NORM, {"kernel"}]),
        ("barlow_twins", (9, 9, 8), [{"kernel"}, NORM, {"kernel"}, NORM, {"kernel"}]),
        ("simclr", (9, 9, 8), [{"kernel"}, NORM, {"kernel"}, NORM, {"kernel"}, {"scale"}]),
        ("debiased", (9, 8), [{"kernel"}, NORM, {"kernel", "bias"}]),
        ("moco", (9, 8), [{"kernel", "bias"}, {"kernel", "bias"}]),
        ("moco", (8,), [{"kernel", "bias"}]),  # v1
        ("byol", (9, 8), [{"kernel", "bias"}, NORM, {"kernel"}]),
        ("simsiam", (9, 9, 8), [{"kernel"}, NORM, {"kernel"}, NORM, {"kernel"}]),
    ],
)
def test_parameters_of_the_projector(name, dims, expected):
    variables = shapes(Head(dims, **METHODS[name].head_options))
    assert layers(variables["params"]) == expected
    # SimSiam's last BatchNorm has statistics, but no parameters.
    norms = len(dims) if name in ("simclr", "simsiam") else 0 if name == "moco" else len(dims) - 1
    assert len(variables.get("batch_stats", {})) == norms


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("byol", [{"kernel", "bias"}, NORM, {"kernel"}]),
        ("simsiam", [{"kernel"}, NORM, {"kernel", "bias"}]),
    ],
)
def test_parameters_of_the_predictor(name, expected):
    variables = shapes(Head((4, 8), **METHODS[name].predictor_options))
    assert layers(variables["params"]) == expected
    assert len(variables["batch_stats"]) == 1


def shapes(head):
    return jax.eval_shape(head.init, jax.random.key(0), jnp.zeros((1, 5)))


def layers(params):
    """The names of the parameters of each layer, in the order of the forward pass."""
    return [set(params[name]) for name in sorted(params, key=lambda name: (name[-1], name[0] == "b"))]
