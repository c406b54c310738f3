import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.losses.cases import OF_EMBEDDINGS, OTHERS
from vicreg_jax import losses

MODULES = [module.name for module in pkgutil.iter_modules(losses.__path__, f"{losses.__name__}.")]
LOSSES = [function for _, function in inspect.getmembers(losses, inspect.isfunction)]
ROOT = Path(__file__).parents[2]
IMPORT = """
import sys, time
import jax
before, start = set(sys.modules), time.perf_counter()
import vicreg_jax.losses
seconds = time.perf_counter() - start
others = {name.partition(".")[0] for name in set(sys.modules) - before}
print(seconds, *sorted(others - {"jax", "vicreg_jax"} - set(sys.stdlib_module_names)))
"""


def test_import_is_fast_and_needs_only_jax():
    command = [sys.executable, "-c", IMPORT]
    run = partial(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=True)
    runs = [run().stdout.split() for _ in range(2)]
    assert runs[0][1:] == []
    assert min(float(run[0]) for run in runs) <= 0.1


QUICK = ("vicreg", "covariance")  # modules whose examples compile fast


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name.endswith(QUICK) else pytest.mark.slow) for name in MODULES]
)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module)
    assert result.failed == 0
    public = [loss for loss in LOSSES if loss.__module__ == name]
    assert all(">>>" in loss.__doc__ for loss in public)
    assert result.attempted >= len(public)


UNBIASED = partial(losses.covariance_term, unbiased=True)
OTHER_FORM = (losses.barlow_twins_loss, UNBIASED)  # for N > D


DEFAULT = (losses.vicreg_loss, losses.byol_loss, UNBIASED)  # each kind of custom derivative


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        pytest.param(
            OF_EMBEDDINGS.get(loss, loss),
            shape,
            marks=() if loss in DEFAULT and shape == (4, 6) else pytest.mark.slow,
        )
        for loss, shape in [(loss, (4, 6)) for loss in (*LOSSES, UNBIASED) if loss not in (*OTHERS, losses.visreg)]
        + [(loss, (6, 4)) for loss in OTHER_FORM]
    ],
)
def test_second_derivatives(loss, shape):
    """Forward and reverse mode over each other, against differences of the gradient; float64 stays float64.

    VISReg stops a gradient: test_visreg.py has its part.
    """
    parameters = inspect.signature(loss).parameters.values()
    count = sum(parameter.kind == parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    with jax.enable_x64(True):
        z = jnp.asarray(np.random.default_rng(0).normal(size=(count, *shape)))
        # The gradient into the last two arguments of these losses is stopped.
        z, fixed = (z[:2], z[2:]) if loss in (losses.byol_loss, losses.simsiam_loss) else (z, ())
        direction = jnp.asarray(np.random.default_rng(1).normal(size=z.shape))

        def value(z):
            return jax.tree.leaves(loss(*z, *fixed))[0]

        def along(function):
            return lambda z: jax.jvp(function, (z,), (direction,))[1]

        gradient = jax.jit(jax.grad(value))

        @jax.jit
        def products(z):
            reverse_over_reverse = jax.grad(lambda z: jnp.vdot(gradient(z), direction))
            return along(gradient)(z), reverse_over_reverse(z), jax.grad(along(value))(z), along(along(value))(z)

        *vectors, scalar = products(z)
        step = 1e-5 * direction
        expected = (gradient(z + step) - gradient(z - step)) / 2e-5
        for vector in vectors:
            assert vector.dtype == jnp.float64
            np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-6 * jnp.abs(expected).max())
        np.testing.assert_allclose(scalar, jnp.vdot(expected, direction), rtol=1e-5)
