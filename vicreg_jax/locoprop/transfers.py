"""Which transfer function follows a layer: cut out of the traced network, told by values."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, Var, jaxpr_as_fun

# `matching.TRANSFERS` once more, in NumPy: nothing has to be compiled to try them.
KNOWN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "softmax": lambda a: np.exp(a) / np.exp(a).sum(-1, keepdims=True),
    "relu": lambda a: np.maximum(a, 0),
    "leaky_relu": lambda a: np.where(a > 0, a, 0.01 * a),
}


def find_transfer(network: ClosedJaxpr, pre_activation: Var, outputs: Sequence[Any]) -> tuple[str | None, bool]:
    """What becomes of a pre-activation before anything else of the network joins it.

    All that is computed from it and constants alone is cut out. Where everything that the rest of the network takes
    passes through one array of its shape, and that array is a known transfer function of random numbers, this is the
    one. Where what the rest takes is affine in random numbers it is 'identity'. How a function was written does not
    matter.

    Args:
      network: the traced network.
      pre_activation: one of its variables.
      outputs: those of its variables that are the network's outputs.

    Returns:
      A name of `matching.TRANSFERS` or None; and whether the network gives out what was cut out.
    """
    part = _Part(network, pre_activation, outputs)
    array: Any = pre_activation.aval
    probes = np.random.default_rng(0).normal(0, 2, (2, *array.shape)).astype(array.dtype)
    given_out = any(end in outputs for end in part.ends)
    for bottleneck in part.bottlenecks():
        (values,) = part.evaluate([bottleneck], probes[0])
        rows, taken = _rows(values), _rows(probes[0])
        distances = {name: _distance(rows, known(taken)) for name, known in KNOWN.items()}
        nearest = min(distances, key=distances.__getitem__)
        if distances[nearest] <= _tolerance(probes.dtype):
            return nearest, given_out
    both, first, second, none = (
        part.evaluate(part.ends, probe) for probe in (probes[0] + probes[1], *probes, np.zeros_like(probes[0]))
    )
    affine = all(
        _distance(_wide(a), _wide(b) + _wide(c) - _wide(d)) <= _tolerance(probes.dtype)
        for a, b, c, d in zip(both, first, second, none, strict=True)
    )
    return "identity" if affine else None, given_out


class _Part:
    """The equations that need nothing but one variable and constants, and their results that are needed elsewhere."""

    def __init__(self, network: ClosedJaxpr, source: Var, outputs: Sequence[Any]) -> None:
        array: Any = source.aval
        self.network, self.source, self.shape = network, source, array.shape
        self.equations: list[Any] = []
        known, self.reached, taken = {source, *network.jaxpr.constvars}, {source: None}, []
        for equation in network.jaxpr.eqns:
            arguments = _variables(equation.invars)
            if not all(variable in known for variable in arguments):
                taken += arguments
                continue
            self.equations.append(equation)
            known.update(equation.outvars)
            if any(variable in self.reached for variable in arguments):
                self.reached.update(dict.fromkeys(equation.outvars))
        self.ends = [v for v in dict.fromkeys(taken + _variables(outputs)) if v in self.reached]

    def bottlenecks(self) -> Iterable[Var]:
        """The variables of the source's shape, after it, without which none of the ends can be computed."""
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
        jaxpr = self.network.jaxpr.replace(invars=[self.source], outvars=list(wanted), eqns=self.equations)
        with jax.ensure_compile_time_eval():
            return jaxpr_as_fun(ClosedJaxpr(jaxpr, self.network.consts))(jnp.asarray(values))


def _rows(values: Any) -> np.ndarray:
    """Some rows along the last axis, enough to tell one function from another."""
    return _wide(np.asarray(values).reshape(-1, values.shape[-1])[:64])


def _variables(atoms: Iterable[Any]) -> list[Var]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _wide(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """The root mean square of their difference, relative to the second."""
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), np.finfo(np.float64).tiny))


def _tolerance(dtype: Any) -> float:
    return 4 * float(jnp.finfo(dtype).eps)
