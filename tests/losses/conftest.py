from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def quick_compilation():
    """For tests whose time goes into compiling: `pytestmark = pytest.mark.usefixtures("quick_compilation")`."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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
