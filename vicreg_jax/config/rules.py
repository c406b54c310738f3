"""Rules for the values of config fields: the type, a check, and the rule in words."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What a field takes.

    Attributes:
        type: the Python type of the value; `object`: a string or a tuple.
        words: completes the sentence "config.seed must be ...".
        accepts: value of that type -> whether the rule holds.
        choices: the names to choose from, where it takes one of a few.
    """

    type: type
    words: str
    accepts: Callable[[Any], bool] = lambda value: True
    choices: tuple[str, ...] = ()

    def takes(self, value: Any) -> bool:
        """Whether the value has the type, an integer being a number too, and the rule holds."""
        types = (int, float) if self.type is float else self.type
        return isinstance(value, types) and isinstance(value, bool) == (self.type is bool) and self.accepts(value)


TEXT = Rule(str, "a string")
TEXTS = Rule(tuple, "strings, as a tuple", lambda value: all(isinstance(x, str) for x in value))
FLAG = Rule(bool, "True or False")
POSITIVE = Rule(float, "a number above 0", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Rule(float, "a number of at least 0", lambda value: 0 <= value < math.inf)
FRACTION = Rule(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_ONE = Rule(float, "a number from 0 to below 1", lambda value: 0 <= value < 1)
POSITIVE_FRACTION = Rule(float, "a number above 0, at most 1", lambda value: 0 < value <= 1)
DEVICES = Rule(int, "an integer of at least 1, or -1 for all devices", lambda value: value == -1 or value >= 1)


def at_least(minimum: int) -> Rule:
    """An integer with a lower bound."""
    return Rule(int, f"an integer of at least {minimum}", lambda value: value >= minimum)


def one_of(*names: str) -> Rule:
    """One of a few names."""
    return Rule(str, "one of " + ", ".join(names), lambda value: value in names, names)


def are_numbers(values: Any, accepts: Callable[[float], bool] = lambda value: True) -> bool:
    """Whether `values` is not empty and holds finite numbers only, all of them accepted."""
    return len(values) > 0 and all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) and accepts(x) for x in values
    )


INTEGERS = Rule(
    tuple,
    "one or more integers of at least 1, as a tuple",
    lambda value: are_numbers(value, lambda x: isinstance(x, int) and x >= 1),
)
INTEGERS_OR_NONE = Rule(
    tuple, "integers of at least 1, as a tuple", lambda value: value == () or INTEGERS.accepts(value)
)
AREA = Rule(
    tuple,
    "two fractions of the image's area in rising order, such as (0.08, 1.0)",
    lambda value: len(value) == 2 and are_numbers(value, lambda x: 0 < x <= 1) and value[0] <= value[1],
)
EXTEND = one_of("replan", "cosine_from_here")


def _are_extensions(value: tuple[Any, ...]) -> bool:
    if not all(isinstance(entry, tuple) and len(entry) == 3 and INTEGERS.accepts(entry[:2]) for entry in value):
        return False
    rising = all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(value))
    return rising and all(EXTEND.accepts(how) for *_, how in value)


EXTENSIONS = Rule(tuple, "(step, epochs until then, train.extend) of each extension, in rising order", _are_extensions)
VALUE_RANGE = Rule(
    object,
    "auto, dtype, or two numbers in rising order, such as (7300, 8200)",
    lambda value: (
        value in ("auto", "dtype")
        or (isinstance(value, tuple) and len(value) == 2 and are_numbers(value) and value[0] < value[1])
    ),
)


def rule_of(default: Any) -> Rule:
    """The rule "has the type of the default", for fields whose owner checks the value itself."""
    words = {int: "an integer", float: "a number", bool: FLAG.words, tuple: "a tuple such as (1, 2)", str: TEXT.words}
    return Rule(type(default), words[type(default)])
