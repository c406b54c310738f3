"""Processes of one run must run the same program: what differs is named before anything is compiled."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from vicreg_jax.runtime.coordination import combine
from vicreg_jax.runtime.errors import InputError

Built = TypeVar("Built")

_SHOWN = 8  # a config of another file differs in dozens of fields
_LONG = 80  # characters of a value


def require_same(facts: Mapping[str, Any]) -> None:
    """Compares facts with those of the other processes.

    Args:
        facts: by name, as JSON holds them. None is unknown, and differs from nothing.

    Raises:
        InputError: in every process, naming the facts that differ, with two values of each.
    """
    if phrases := combine(dict(facts), disagreements):
        more = [f"and {len(phrases) - _SHOWN} more"] if len(phrases) > _SHOWN else []
        raise InputError("; ".join(phrases[:_SHOWN] + more))


def disagreements(said: Sequence[Mapping[str, Any]]) -> list[str]:
    """One phrase for every fact that differs between two processes.

    Args:
        said: the facts of each process, by name.

    >>> disagreements([{"config.seed": 0}, {"config.seed": 1}])
    ['config.seed must be the same in every process; got 0 in process 0 and 1 in process 1']
    """
    phrases = []
    for name in dict.fromkeys(name for facts in said for name in facts):
        known = [(process, facts[name]) for process, facts in enumerate(said) if facts.get(name) is not None]
        other = next((pair for pair in known if pair[1] != known[0][1]), None)
        if other is not None:
            (first, ours), (second, theirs) = known[0], other
            name, ours, theirs = _narrowed(name, ours, theirs)
            phrases.append(
                f"{name} must be the same in every process; got {ours!r} in process {first} and {theirs!r} in "
                f"process {second}"
            )
    return phrases


def build_everywhere(build: Callable[[], Built]) -> Built:
    """Calls `build` in every process.

    Raises:
        InputError: in every process, where `build` raises it in any.
    """
    built, refusal = None, None
    try:
        built = build()
    except InputError as error:
        refusal = error
    answer = combine(None if refusal is None else str(refusal), _first_refusal)
    if answer is not None:
        raise InputError(answer) from refusal
    return built  # type: ignore[return-value]


def _first_refusal(said: Sequence[str | None]) -> str | None:
    """The refusal of the first process that refuses; with its index, unless all refuse in the same words."""
    process, refusal = next(((process, text) for process, text in enumerate(said) if text is not None), (0, None))
    if refusal is None or len(set(said)) == 1:
        return refusal
    return f"{refusal} (in process {process})"


def _narrowed(name: str, ours: Any, theirs: Any) -> tuple[str, Any, Any]:
    """The first entry that differs, of long lists of one length."""
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs) and len(repr(ours)) > _LONG:
        index = next(index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        return f"{name}[{index}]", ours[index], theirs[index]
    return name, ours, theirs
