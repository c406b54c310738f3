"""What the numbers among a method's fields take. Every message begins with the field's name."""

import math
from typing import Any


def _check(method: Any, names: tuple[str, ...], lowest: float, highest: float, closed: tuple[bool, bool]) -> None:
    for name in names:
        value = getattr(method, name)
        above = value >= lowest if closed[0] else value > lowest
        below = value <= highest if closed[1] else value < highest
        if not (math.isfinite(value) and above and below):
            low = f"of at least {lowest:g}" if closed[0] else f"above {lowest:g}"
            high = f", at most {highest:g}" if closed[1] else f", below {highest:g}"
            raise ValueError(f"{name}: got {value!r}, takes a number {low}{'' if math.isinf(highest) else high}")


def not_negative(method: Any, *names: str) -> None:
    """Refuses a field of the method that is under 0 or not finite."""
    _check(method, names, 0, math.inf, (True, False))


def positive(method: Any, *names: str) -> None:
    """Refuses a field of the method that is not above 0, or not finite."""
    _check(method, names, 0, math.inf, (False, False))


def below_one(method: Any, *names: str) -> None:
    """Refuses a field of the method outside of [0, 1)."""
    _check(method, names, 0, 1, (True, False))


def fraction(method: Any, *names: str) -> None:
    """Refuses a field of the method outside of [0, 1]."""
    _check(method, names, 0, 1, (True, True))
