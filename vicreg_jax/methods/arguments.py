"""Range checks of a method's numeric fields. Every message begins with the name of the field."""

import math
from collections.abc import Callable
from typing import Any


def check_not_negative(method: Any, *names: str) -> None:
    """Raise ValueError unless these fields are finite and at least 0."""
    _check(method, names, "a number of at least 0", lambda value: 0 <= value < math.inf)


def check_positive(method: Any, *names: str) -> None:
    """Raise ValueError unless these fields are finite and above 0."""
    _check(method, names, "a number above 0", lambda value: 0 < value < math.inf)


def check_below_one(method: Any, *names: str) -> None:
    """Raise ValueError unless these fields are in [0, 1)."""
    _check(method, names, "a number from 0 to below 1", lambda value: 0 <= value < 1)


def check_fraction(method: Any, *names: str) -> None:
    """Raise ValueError unless these fields are in [0, 1]."""
    _check(method, names, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def _check(method: Any, names: tuple[str, ...], rule: str, accepts: Callable[[Any], bool]) -> None:
    for name in names:
        value = getattr(method, name)
        if not accepts(value):
            raise ValueError(f"{name} must be {rule}; got {value!r}")
