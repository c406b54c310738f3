"""Checks of the fields of `View` and `Preprocessing`. Every message begins with the name of the field."""

import difflib
import math
from collections.abc import Iterable
from typing import Any


def is_number(value: Any) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_number(name: str, value: Any, maximum: float = math.inf) -> None:
    """Raise ValueError unless the value is a number from 0 to `maximum`."""
    if not is_number(value) or not 0 <= value <= maximum:
        rule = "a number of at least 0" if maximum == math.inf else f"a number from 0 to {maximum:g}"
        raise ValueError(f"{name} must be {rule}; got {value!r}")


def check_size(name: str, value: Any) -> None:
    """Raise ValueError unless the value is an integer of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1; got {value!r}")


def as_interval(name: str, value: Any, maximum: float = math.inf) -> tuple[float, float]:
    """The pair as a tuple (a config read from JSON has lists). Raises ValueError unless 0 < low <= high <= maximum."""
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not all(map(is_number, pair)) or not 0 < pair[0] <= pair[1] <= maximum:
        bound = "" if maximum == math.inf else f" <= {maximum:g}"
        raise ValueError(f"{name} must be (low, high) with 0 < low <= high{bound}; got {value!r}")
    return pair


def did_you_mean(name: Any, choices: Iterable[str]) -> str:
    """The closest choice as a hint that ends an error message; empty if there is none."""
    close = difflib.get_close_matches(str(name), choices, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
