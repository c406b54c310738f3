"""Detects the transfer function after a layer by its values, in the traced network."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, Var, jaxpr_as_fun

# `matching.TRANSFERS` in NumPy, so that trying them compiles nothing.
KNOWN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "softmax": lambda a: np.exp(a) / np.exp(a).sum(-1, keepdims=True),
    "relu": lambda a: np.maximum(a, 0),
    "leaky_relu": lambda a: np.where(a > 0, a, 0.01 * a),
}


def find_transfer(network: ClosedJaxpr, pre_activation: Var, outputs: Sequence[Any]) -> tuple[str | None, bool]:
    """Finds the transfer function that the network applies to a pre-activation.

    The part of the network that depends on the pre-activation and constants alone is evaluated on random numbers. If
    all results that the rest of the network uses pass through one array of the pre-activation's shape, and the values
    of that array equal a known transfer function, that function is found. If the results are affine in the
    pre-activation, it is 'identity'. The way in which a function is written does not matter.

    Args:
        network: the traced network.
        pre_activation: a variable of the network.
        outputs: the variables that are the network's outputs.

    Returns:
        A name from `matching.TRANSFERS`, or None if none matches; and whether a result of that part is an output of
        the network.
    """
    part = _Part(network, pre_activation, outputs)
    array: Any = pre_activation.aval
    probes = np.random.default_rng(0).normal(0, 2, (2, *array.shape)).astype(array.dtype)
    is_output = any(end in outputs for end in part.ends)
    for bottleneck in part.bottlenecks():
        (values,) = part.evaluate([bottleneck], probes[0])
        found, given = _rows(values), _rows(probes[0])
        distances = {name: _distance(found, known(given)) for name, known in KNOWN.items()}
        nearest = min(distances, key=distances.__getitem__)
        if distances[nearest] <= _tolerance(probes.dtype):
            return nearest, is_output
    # f is affine if f(x + y) = f(x) + f(y) - f(0).
    of_sum, of_first, of_second, of_zero = (
        part.evaluate(part.ends, probe) for probe in (probes[0] + probes[1], *probes, np.zeros_like(probes[0]))
    )
    affine = all(
        _distance(_wide(a), _wide(b) + _wide(c) - _wide(d)) <= _tolerance(probes.dtype)
        for a, b, c, d in zip(of_sum, of_first, of_second, of_zero, strict=True)
    )
    return "identity" if affine else None, is_output


class _Part:
    """The equations that depend on one variable and constants alone.

    Attributes:
        network: the traced network.
        source: the variable.
        shape: shape of the variable.
        equations: the equations, in order.
        reached: the variables that depend on the source, in order, the source first.
        ends: the reached variables that the rest of the network uses, or that are outputs.
    """

    def __init__(self, network: ClosedJaxpr, source: Var, outputs: Sequence[Any]) -> None:
        array: Any = source.aval
        self.network, self.source, self.shape = network, source, array.shape
        self.equations: list[Any] = []
        known, self.reached, used = {source, *network.jaxpr.constvars}, {source: None}, []
        for equation in network.jaxpr.eqns:
            arguments = _variables(equation.invars)
            if not all(variable in known for variable in arguments):
                used += arguments
                continue
            self.equations.append(equation)
            known.update(equation.outvars)
            if any(variable in self.reached for variable in arguments):
                self.reached.update(dict.fromkeys(equation.outvars))
        self.ends = [v for v in dict.fromkeys(used + _variables(outputs)) if v in self.reached]

    def bottlenecks(self) -> Iterable[Var]:
        """The variables of the source's shape from which all ends can be computed without the source."""
        for candidate in self.reached:
            array: Any = candidate.aval
            floating = jnp.issubdtype(array.dtype, jnp.floating)
            if candidate is self.source or array.shape != self.shape or not floating:
                continue
            known = {candidate, *self.network.jaxpr.constvars}
            for equation in self.equations:
                if all(variable in known for variable in _variables(equation.invars)):
                    known.update(equation.outvars)
            if all(end in known for end in self.ends):
                yield candidate

    def evaluate(self, wanted: Sequence[Var], values: np.ndarray) -> list[jax.Array]:
        """The wanted variables for these values of the source."""
        jaxpr = self.network.jaxpr.replace(invars=[self.source], outvars=list(wanted), eqns=self.equations)
        # The probes may lie outside the function's domain, so the checks for NaN and infinity are off.
        with jax.ensure_compile_time_eval(), jax.debug_nans(False), jax.debug_infs(False):
            return jaxpr_as_fun(ClosedJaxpr(jaxpr, self.network.consts))(jnp.asarray(values))


def _rows(values: Any) -> np.ndarray:
    """At most 64 rows along the last axis, enough to tell the functions apart."""
    return _wide(np.asarray(values).reshape(-1, values.shape[-1])[:64])


def _variables(atoms: Iterable[Any]) -> list[Var]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _wide(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """The norm of the difference, relative to the norm of b."""
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), np.finfo(np.float64).tiny))


def _tolerance(dtype: Any) -> float:
    return 4 * float(jnp.finfo(dtype).eps)
