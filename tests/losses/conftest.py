from collections.abc import Iterator

import jax
import numpy as np
import pytest


@pytest.fixture
def operations():
    """A function that yields the equations of a jaxpr and of its inner jaxprs."""

    def walk(jaxpr) -> Iterator:
        for equation in jaxpr.eqns:
            yield equation
            for parameter in jax.tree.leaves(list(equation.params.values())):
                inner = getattr(parameter, "jaxpr", parameter)
                if hasattr(inner, "eqns"):
                    yield from walk(inner)

    return walk


@pytest.fixture
def optimized():
    """Compile with XLA's optimizations, as users do: tests/conftest.py disables most of them."""
    disabled = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", disabled)


@pytest.fixture(scope="session")
def crossed_cosines():
    """A function that returns the mean of cos(p_a, z_b) + cos(p_b, z_a) and its four gradients, in float64."""

    def value_and_gradients(p_a, p_b, z_a, z_b):
        rows = [np.asarray(z, np.float64) for z in (p_a, p_b, z_a, z_b)]
        norms = [np.linalg.norm(z, axis=1, keepdims=True) for z in rows]
        units = [z / norm for z, norm in zip(rows, norms, strict=True)]
        others = units[::-1]  # z_b for p_a, z_a for p_b, and vice versa
        cosines = [np.sum(u * other, axis=1, keepdims=True) for u, other in zip(units, others, strict=True)]
        gradients = [
            (other - cosine * u) / norm / len(u)
            for u, other, cosine, norm in zip(units, others, cosines, norms, strict=True)
        ]
        return np.mean(cosines[0] + cosines[1]), np.stack(gradients)

    return value_and_gradients
