from collections.abc import Iterator

import jax
import numpy as np
import pytest


@pytest.fixture
def operations():
    """A function from a jaxpr to its equations and those of the jaxprs inside it."""

    def walk(jaxpr) -> Iterator:
        for equation in jaxpr.eqns:
            yield equation
            for parameter in jax.tree.leaves(list(equation.params.values())):
                inner = getattr(parameter, "jaxpr", parameter)
                if hasattr(inner, "eqns"):
                    yield from walk(inner)

    return walk


@pytest.fixture(scope="session")
def crossed_cosines():
    """A function to the mean of cos(p_a, z_b) + cos(p_b, z_a) and its four gradients, in float64."""

    def value_and_gradients(p_a, p_b, z_a, z_b):
        rows = [np.asarray(z, np.float64) for z in (p_a, p_b, z_a, z_b)]
        lengths = [np.linalg.norm(z, axis=1, keepdims=True) for z in rows]
        units = [z / length for z, length in zip(rows, lengths, strict=True)]
        others = units[::-1]  # z_b for p_a, z_a for p_b, and the same the other way round
        cosines = [np.sum(u * other, axis=1, keepdims=True) for u, other in zip(units, others, strict=True)]
        gradients = [
            (other - cosine * u) / length / len(u)
            for u, other, cosine, length in zip(units, others, cosines, lengths, strict=True)
        ]
        return np.mean(cosines[0] + cosines[1]), np.stack(gradients)

    return value_and_gradients
